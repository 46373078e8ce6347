"""Channels: what is heard, and the signal to read again after each gap."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from kdcube.redis.connection import open_connection
from kdcube.redis.subscriber import open_subscriber

pytestmark = pytest.mark.anyio


class Ear:
    """A listener that remembers what it heard and can be waited for."""

    def __init__(self) -> None:
        self.heard: list[bytes | None] = []
        self._more = asyncio.Event()

    def __call__(self, payload: bytes | None) -> None:
        self.heard.append(payload)
        self._more.set()

    async def until(self, count: int) -> list[bytes | None]:
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                self._more.clear()
                await self._more.wait()
        return self.heard


@asynccontextmanager
async def both(url):
    async with open_connection(url, name="test") as connection, open_subscriber(url, name="ears") as subscriber:
        yield connection, subscriber


async def test_none_comes_first_then_the_messages_in_order(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        ear = Ear()
        subscriber.subscribe("c", ear)
        assert ear.heard == []
        assert await ear.until(1) == [None]
        payloads = [b"%d" % i for i in range(100)] + [b"\x00" * 1_000_000]
        await asyncio.gather(*(connection.call("PUBLISH", "c", payload) for payload in payloads))
        assert await ear.until(102) == [None, *payloads]


async def test_each_listener_of_a_channel_hears_and_gets_its_own_signal(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        first, second, other = Ear(), Ear(), Ear()
        subscriber.subscribe("c", first)
        await first.until(1)
        subscriber.subscribe("c", second)
        subscriber.subscribe("c", second)
        subscriber.subscribe("d", other)
        assert second.heard == []
        await second.until(1)
        await other.until(1)
        assert await connection.call("PUBLISH", "c", "x") == 1  # one subscription serves both
        assert await second.until(2) == [None, b"x"]
        assert first.heard == [None, b"x"]
        assert other.heard == [None]


async def test_the_last_listener_to_leave_ends_the_subscription(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        first, second = Ear(), Ear()
        subscriber.subscribe("c", first)
        subscriber.subscribe("c", second)
        await second.until(1)
        subscriber.unsubscribe("c", first)
        subscriber.unsubscribe("c", first)
        subscriber.unsubscribe("unknown", first)
        await connection.call("PUBLISH", "c", "x")
        await second.until(2)
        subscriber.unsubscribe("c", second)
        while await connection.call("PUBLISH", "c", "y"):
            pass
        assert first.heard == [None]
        assert second.heard == [None, b"x"]


async def test_leaving_and_joining_at_once_signals_only_when_it_lasts(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        gone, stays = Ear(), Ear()
        for _ in range(3):
            subscriber.subscribe("c", gone)
            subscriber.unsubscribe("c", gone)
        subscriber.subscribe("c", stays)
        await stays.until(1)
        await connection.call("PUBLISH", "c", "x")
        assert await stays.until(2) == [None, b"x"]
        assert gone.heard == []


async def test_joining_and_leaving_a_confirmed_channel_at_once_is_silent(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        stays, gone = Ear(), Ear()
        subscriber.subscribe("c", stays)
        await stays.until(1)
        subscriber.subscribe("c", gone)
        subscriber.unsubscribe("c", gone)
        await connection.call("PUBLISH", "c", "x")
        await stays.until(2)
        assert gone.heard == []


async def test_a_listener_that_raises_or_leaves_meanwhile_does_not_break_the_others(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        ear, removed = Ear(), Ear()

        def raises(payload: bytes | None) -> None:
            if payload is not None:
                subscriber.unsubscribe("c", removed)
            raise ValueError

        for listener in (raises, removed, ear):
            subscriber.subscribe("c", listener)
        await ear.until(1)
        await connection.call("PUBLISH", "c", "x")
        assert await ear.until(2) == [None, b"x"]
        assert removed.heard == [None]


async def test_a_killed_socket_comes_back_with_the_signal_on_every_channel(valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        ears = {f"c{i}": Ear() for i in range(1_200)}
        for channel, ear in ears.items():
            subscriber.subscribe(channel, ear)
        await ears["c1199"].until(1)
        assert await connection.call("CLIENT", "KILL", "TYPE", "pubsub") == 1
        for ear in ears.values():
            assert await ear.until(2) == [None, None]
        await connection.call("PUBLISH", "c7", "x")
        assert await ears["c7"].until(3) == [None, None, b"x"]


async def test_what_is_asked_while_the_server_is_away_holds_once_it_is_back(valkey_server, valkey_url):
    async with both(valkey_url) as (connection, subscriber):
        before, gone, during = Ear(), Ear(), Ear()
        subscriber.subscribe("c", before)
        subscriber.subscribe("d", gone)
        await gone.until(1)
        valkey_server.kill()
        while subscriber.connection.connected:
            await asyncio.sleep(0)
        subscriber.unsubscribe("d", gone)
        subscriber.subscribe("e", during)
        valkey_server.restart()
        await before.until(2)
        await during.until(1)
        await connection.wait_connected(10)
        assert [await connection.call("PUBLISH", channel, "x") for channel in "cde"] == [1, 0, 1]
        assert await during.until(2) == [None, b"x"]
        assert gone.heard == [None]
