"""Workers as Valkey knows them: heartbeats, capacity, lease renewal, stops for a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_BEAT = Script("beat")

DOORBELL_CAP = 64
"""Rings beyond this say nothing new."""


class Workers:
    """The workers of one partition."""

    def __init__(self, connection: Connection, keys: Keys, *, heartbeat_ttl_s: float = 15.0) -> None:
        self._connection = connection
        self._keys = keys
        self._ttl_ms = int(heartbeat_ttl_s * 1000)

    async def beat(self, worker_id: str, *, slots: int, info: dict[str, Any]) -> None:
        """Says that the worker lives, with so many slots; what it says of itself is for operators."""
        keys = self._keys
        await _BEAT(
            self._connection,
            [keys.beats, keys.slots, keys.workers, keys.doorbell],
            [worker_id, slots, msgspec.json.encode(info), self._ttl_ms],
        )

    async def leave(self, worker_id: str) -> None:
        """The worker has drained: its slots count no more."""
        keys = self._keys
        for key, command in ((keys.beats, "ZREM"), (keys.slots, "HDEL"), (keys.workers, "HDEL")):
            await self._connection.call(command, key, worker_id)

    async def describe(self) -> dict[str, dict[str, Any]]:
        """What each worker says of itself."""
        described: dict[bytes, bytes] = await self._connection.call("HGETALL", self._keys.workers)
        return {name.decode(): msgspec.json.decode(info) for name, info in described.items()}

    async def live(self) -> dict[str, dict[str, Any]]:
        """What each worker that has beaten lately says of itself."""
        seconds, _ = await self._connection.call("TIME")
        since = int(seconds) * 1000 - self._ttl_ms
        beating: list[bytes] = await self._connection.call("ZRANGEBYSCORE", self._keys.beats, since, "+inf")
        names = {name.decode() for name in beating}
        return {name: info for name, info in (await self.describe()).items() if name in names}

    async def stop_claims(self, revisions: Sequence[str]) -> None:
        """No worker of these revisions claims any more (rule 12)."""
        await self._connection.call("SADD", self._keys.stops, *revisions)

    async def allow_claims(self, revisions: Sequence[str]) -> None:
        """Takes a stop back (a deployment was rolled back)."""
        await self._connection.call("SREM", self._keys.stops, *revisions)

    def ring(self) -> None:
        """Rings the doorbell: there is capacity, or work, that a worker may not know of. A hint, which may get lost."""
        for command in (("RPUSH", self._keys.doorbell, "1"), ("LTRIM", self._keys.doorbell, 0, DOORBELL_CAP - 1)):
            self._connection.call(*command).add_done_callback(_unheard)

    async def report_memory(self, share: float) -> None:
        """The share of its memory budget that Valkey uses: a term of admission (rule 29)."""
        await self._connection.call("HSET", self._keys.schedule, "memory", int(share * 1000))


def _unheard(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for it: asyncio need not report what it failed with."""
    if not answer.cancelled():
        answer.exception()
