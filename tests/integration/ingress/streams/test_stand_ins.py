"""The stand-ins of the unit tests say what the real scripts say: the same pages and the same messages."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.integration.ingress.streams.conftest import KEYS
from tests.unit.ingress.streams.fakes import FakeFeeds, FakeValkey, Log, completed, delta, started

from kdcube.protocol.cursors import Position
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.turns import TurnState
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import open_subscriber

pytestmark = pytest.mark.anyio


class Ear:
    def __init__(self):
        self.heard: list[bytes] = []
        self.ready = asyncio.Event()
        self._more = asyncio.Event()

    def __call__(self, payload):
        if payload is None:
            self.ready.set()
        else:
            self.heard.append(payload)
            self._more.set()

    async def until(self, count):
        while len(self.heard) < count:
            self._more.clear()
            await self._more.wait()


async def test_logs(site):
    assert Keys("t", "p") == KEYS
    envelope = await site.admit()
    turn = envelope.turn_id
    fake = FakeValkey(page_batches=64)
    fake.epoch = site.epoch
    fake.known.add(turn)
    fake_ear, ear = Ear(), Ear()
    fake.subscriber().subscribe(KEYS.log_channel(turn), fake_ear)

    async def same():
        for after in range(8):
            assert await site.logs.read(turn, after) == await fake.read(turn, after)

    async with open_subscriber(site.valkey_url, name="ear") as subscriber:
        subscriber.subscribe(KEYS.log_channel(turn), ear)
        await ear.ready.wait()
        await same()
        [claim] = await site.queue.claim(
            epoch=site.epoch, worker_id="w", revision="1", room={"echo@1": 1}, claim_ids=["c1"]
        )
        await site.queue.start(envelope, "c1", epoch=site.epoch, attempt=1, head=b'"a":1', line=started())
        fake.logs[turn] = Log(1, b'"a":1')
        fake._append(turn, [started()], b'"a":1')
        await same()
        tail = 1
        for seq, lines in enumerate(([delta("a")], [delta("b"), delta("c")], [delta("d")]), 1):
            await site.logs.append(
                turn, "c1", epoch=site.epoch, seq=seq, tail=tail, count=len(lines), lines=b"\n".join(lines)
            )
            tail += len(lines)
            fake.append(turn, lines)
        await same()
        line = encode_line(Kind.SNAPSHOT, "turn.snapshot", ts_ms=1, attempt=1, data={"turn_id": turn})
        done = await site.logs.reopen(turn, "c1", epoch=site.epoch, seq=4, line=line, head=b'"b":2', incarnation=2)
        assert done == Position(2, 1)
        fake.logs[turn] = Log(2, b'"b":2')
        fake._append(turn, [line], b'"b":2')
        await same()
        end = completed("abcd")
        await site.queue.finish(claim.envelope, "c1", epoch=site.epoch, state=TurnState.COMPLETED, line=end)
        fake.finish(turn, end)
        await same()
        await site.expire(turn)
        fake.expire(turn)
        await same()
        async with asyncio.timeout(5):
            await ear.until(len(fake_ear.heard))
    assert ear.heard == fake_ear.heard


async def test_feeds(site):
    fake = FakeValkey()
    fake.epoch = site.epoch
    fakes, fake_ear, ear = FakeFeeds(fake), Ear(), Ear()
    fake.subscriber().subscribe(KEYS.feed_channel("ada"), fake_ear)
    async with open_subscriber(site.valkey_url, name="ear") as subscriber:
        subscriber.subscribe(KEYS.feed_channel("ada"), ear)
        await ear.ready.wait()
        assert await site.feeds.read("ada", None) == await fakes.read("ada", None)
        for n in range(4):
            event = {"type": "conversation.renamed", "conversation_id": "c", "title": str(n)}
            await site.feeds.notify("ada", event)
            fakes.add("ada", event)
        fake.feeds["ada"].name = (await site.feeds.read("ada", None)).feed
        for after in (None, 0, 1, 3, 4, 9):
            assert await site.feeds.read("ada", after) == await fakes.read("ada", after)
        async with asyncio.timeout(5):
            await ear.until(4)
    for real, stand_in in zip(ear.heard, fake_ear.heard, strict=True):
        assert real.split(b" ", 1)[1].split(b"\n")[0] == stand_in.split(b" ", 1)[1].split(b"\n")[0]
        assert msgspec.json.decode(real.split(b"\n")[1]) == msgspec.json.decode(stand_in.split(b"\n")[1])
