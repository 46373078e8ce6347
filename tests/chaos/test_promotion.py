"""A replica of Valkey that lags behind takes over: what it does not know is known from PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from redis import Redis
from tests.chaos.conftest import running
from tests.chaos.hands import crowd
from tests.chaos.proxy import Proxy
from tests.conftest import StoreServer, open_valkey
from tests.e2e.client import answer
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

WORDS = "one two three four five"
PROMOTIONS = 3


@dataclass
class Pair:
    """A Valkey that everybody uses through ``line``, and its replica."""

    line: Proxy
    replication: Proxy
    primary: StoreServer
    replica: StoreServer

    def replicate(self) -> None:
        """The replica knows everything, from here on as it happens."""
        self.replication.switch(self.primary.port)
        self.replication.heal()
        with Redis(port=self.primary.port) as primary, Redis(port=self.replica.port) as replica:
            primary.config_set("repl-diskless-sync-delay", 0)
            replica.replicaof("127.0.0.1", self.replication.port)
            while replica.info("replication")["master_link_status"] != "up":
                pass
            primary.wait(1, 0)

    def lag(self) -> None:
        """The replica hears nothing from here on."""
        self.replication.cut()

    def promote(self) -> None:
        """The primary dies; its replica takes over, and it comes back empty."""
        self.primary.kill()
        with Redis(port=self.replica.port) as replica:
            replica.replicaof("NO", "ONE")
        self.line.switch(self.replica.port)
        self.primary.restart()  # by this thread: a server dies with the thread that has started it
        self.primary, self.replica = self.replica, self.primary


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[Pair]:
    folders = [tmp_path_factory.mktemp("valkey") for _ in range(2)]
    with (
        open_valkey(folders[0]) as primary,
        open_valkey(folders[1]) as replica,
        Proxy(primary.port) as line,
        Proxy(primary.port) as replication,
    ):
        yield Pair(line, replication, primary, replica)


@pytest.fixture(scope="module")
def stack(tmp_path_factory, steps, pair) -> Iterator[Stack]:
    arguments = ("--proc", "2", "--redis-url", pair.line.url)
    with running(tmp_path_factory.mktemp("promotion"), steps, *arguments) as stack:
        yield stack


async def test_a_replica_that_knows_a_turn_at_an_earlier_step(scene, conversation, gate, pair, steps):
    """It thinks that turns wait which run or have ended, and does not know of others at all."""
    await scene.watch()
    held = {"hold": str(gate), "hold_after": 3}
    claim = steps["proc.claim.after"]
    claim.close()
    claimed = await scene.sent(WORDS, f"{conversation}-claimed", trial=held)
    await claim.reached()
    queued = await scene.sent("queued", f"{conversation}-claimed")
    await asyncio.to_thread(pair.replicate)
    pair.lag()
    claim.open()
    await scene.follow(claimed, deltas=3)
    unknown = await scene.sent("unknown", f"{conversation}-unknown")
    ended = await scene.client.ended(unknown)
    running = await scene.sent(WORDS, f"{conversation}-running", trial=held)
    await scene.follow(running, deltas=3)
    pair.promote()
    gate.open()
    stored = await scene.settled()
    assert {(turn["state"], turn["attempt"]) for turn in stored.values()} == {("completed", 1)}
    assert scene.history.began()[-1] == queued
    for turn in (claimed, running):
        assert answer(scene.seen(turn)) == WORDS
    assert answer(ended) == "unknown"


async def test_the_history_is_sound_whatever_the_replica_knows(enter, conversation, choose, pair):
    """It takes over again and again, while hands are at work; it lags by more each time."""
    scenes = [enter(240.0) for _ in range(3)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number)
    async with crowd(scenes, conversation, choose) as users:
        for lag in range(PROMOTIONS):
            await asyncio.to_thread(pair.replicate)
            await users.accepts(choose.randint(0, 10))
            pair.lag()
            await users.accepts(choose.randint(0, 10 * lag + 1))
            pair.promote()
            await users.accepts(choose.randint(1, 10))
    await users.ends()
