"""Streams on stand-ins for the stores, with a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.unit.ingress.streams.fakes import KEYS, FakeEpoch, FakeFeeds, FakeQueue, FakeTurns, FakeValkey
from tests.unit.ingress.streams.harness import Time, spin

from kdcube.ingress.streams import Streams, StreamSettings
from kdcube.ingress.streams.settings import Clock


@dataclass
class Site:
    """Fake stores, and ingress processes on them."""

    valkey: FakeValkey = field(default_factory=FakeValkey)
    turns: FakeTurns = field(default_factory=FakeTurns)
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.feeds = FakeFeeds(self.valkey)

    @asynccontextmanager
    async def process(self, settings: StreamSettings | None = None) -> AsyncGenerator[Streams]:
        streams = Streams(
            logs=self.valkey,
            feeds=self.feeds,
            queue=FakeQueue(self.valkey),
            subscriber=self.valkey.subscriber(),
            epoch_watch=FakeEpoch(self.valkey),
            turns=self.turns,
            keys=KEYS,
            settings=settings or StreamSettings(tick_s=3600),
            clock=Clock(self.time, lambda: 1.0),
        )
        async with streams:
            yield streams

    async def later(self, streams: Streams, seconds: float) -> None:
        """Time passes, and everything that it brings about happens."""
        self.time.pass_(seconds)
        streams.tick()
        await spin()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def streams(site: Site) -> AsyncGenerator[Streams]:
    async with site.process() as streams:
        yield streams
