"""What an EpochWatch believes when its two sockets overtake each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kdcube.redis.epoch import EpochWatch
from kdcube.redis.keys import Keys

pytestmark = pytest.mark.anyio


class SlowConnection:
    """Answers GET when it is told to."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.asked = asyncio.Event()

    async def call(self, *_: object) -> bytes | None:
        self.asked.set()
        return await self.answers.get()


class Channels:
    listener: Any = None

    def subscribe(self, channel: str, listener: Any) -> None:
        self.listener = listener

    def unsubscribe(self, channel: str, listener: Any) -> None:
        pass


async def test_an_answer_that_is_older_than_what_was_heard_does_not_count():
    connection, channels = SlowConnection(), Channels()
    connection.answers.put_nowait(b"1")
    watch = EpochWatch(connection, channels, Keys("t", "p"))  # type: ignore[arg-type]
    async with watch.watching():
        for answer in (b"1", None):
            assert watch.known() is not None
            connection.asked.clear()
            channels.listener(None)  # a gap: it is read again
            await connection.asked.wait()
            channels.listener(b"2")
            connection.answers.put_nowait(answer)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert watch.known() == 2
        connection.asked.clear()
        channels.listener(None)
        await connection.asked.wait()
        connection.answers.put_nowait(b"3")
        assert await watch.wait_for(other_than=2) == 3
