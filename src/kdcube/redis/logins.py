"""What spares PostgreSQL a question per request: logins that were looked up lately, and those that have just ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys

KEPT_MS = 60_000
"""A login is looked up that often, which is also when its use is noted."""
END_KEPT_MS = 600_000
"""Longer than any look-up that was under way when the login ended."""

_ALIVE, _ENDED = b"a", b"e"


@dataclass(frozen=True, slots=True)
class CachedEnd:
    """It has ended, and how."""

    ended_by: str


class LoginCache:
    """A cache only: what is not here is in PostgreSQL. Every method raises StoreUnavailable."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def get(self, cookie_hash: bytes) -> bytes | CachedEnd | None:
        """What ``fill`` was given."""
        value: bytes | None = await self._connection.call("GET", self._key(cookie_hash))
        if value is None:
            return None
        return CachedEnd(value[1:].decode()) if value[:1] == _ENDED else value[1:]

    async def fill(self, cookie_hash: bytes, value: bytes, ttl_ms: int) -> None:
        """Keeps ``value``, unless there is something: an end that came in between is never covered."""
        await self._connection.call("SET", self._key(cookie_hash), _ALIVE + value, "NX", "PX", max(1, ttl_ms))

    async def end(self, cookie_hashes: Iterable[bytes], ended_by: str) -> None:
        """From now on ``get`` tells that they have ended."""
        said = _ENDED + ended_by.encode()
        for call in [self._connection.call("SET", self._key(each), said, "PX", END_KEPT_MS) for each in cookie_hashes]:
            await call

    def _key(self, cookie_hash: bytes) -> str:
        return self._keys.login(cookie_hash.hex())
