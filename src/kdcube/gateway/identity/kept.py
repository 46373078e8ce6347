"""What is read from the identity provider and kept: asked for once for all who wait, and again when it is old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import Unavailable
from kdcube.protocol.errors import KDCubeError

FRESH_S = 600.0
"""Until it is read again, behind the backs of those who use it: a key that was withdrawn is believed for that long."""
STALE_S = 24 * 3600.0
"""For how long it is used while it cannot be read again."""
PAUSE_S = 5.0
"""At least that between two attempts, whoever asks: unknown keys in forged tokens must not become a flood there."""

T = TypeVar("T")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def provider_away(retry_after_s: float = PAUSE_S) -> Unavailable:
    """Whether a token is good cannot be told now: a 503, as a 401 would sign people out."""
    return Unavailable(
        "The identity provider cannot be reached; try again.",
        retry_after_s=retry_after_s,
        error="identity_provider_unavailable",
    )


class Kept(Generic[T]):
    """One document. ``read`` is bounded in time and raises Unavailable; there is at most one call of it at a time."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Awaitable[T]],
        *,
        fresh_s: float = FRESH_S,
        stale_s: float = STALE_S,
        pause_s: float = PAUSE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._read = read
        self._fresh_s = fresh_s
        self._stale_s = stale_s
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._value: T | None = None
        self._read_at = 0.0
        self._next_at = -1.0
        self._failed = False
        self._reading: asyncio.Task[T] | None = None

    def peek(self) -> T | None:
        """What is there, without waiting; it is read again in the background when it is old."""
        if self._value is None:
            return None
        now = self._monotonic()
        age_s = now - self._read_at
        if age_s > self._fresh_s and self._reading is None and now >= self._next_at:
            self._begin()
        return self._value if age_s <= self._stale_s else None

    async def get(self) -> T:
        """What is there, read first if there is nothing. Raises Unavailable, at once when it failed a moment ago."""
        value = self.peek()
        return await self._attempt() if value is None else value

    async def again(self) -> T:
        """As it is now at the provider, or was a moment ago. Raises Unavailable when that cannot be told."""
        if self._value is None or self._failed or self._reading is not None or self._monotonic() >= self._next_at:
            return await self._attempt()
        return self._value

    async def close(self) -> None:
        """Stops what is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _attempt(self) -> T:
        if self._reading is None:
            wait_s = self._next_at - self._monotonic()
            if wait_s > 0:
                raise provider_away(wait_s)
            self._begin()
        assert self._reading is not None
        return await asyncio.shield(self._reading)

    def _begin(self) -> None:
        self._reading = asyncio.create_task(self._fetch())
        self._reading.add_done_callback(self._done)

    async def _fetch(self) -> T:
        try:
            value = await self._read()
        except KDCubeError:
            self._failed = True
            raise
        else:
            self._value, self._failed, self._read_at = value, False, self._monotonic()
            return value
        finally:
            self._next_at = self._monotonic() + self._pause_s

    def _done(self, task: asyncio.Task[T]) -> None:
        self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("identity.provider_away", document=self._name, reason=str(error.__cause__ or error))
