"""A stream that was opened by a login or an API key ends with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.protocol.errors import StoreUnavailable

CHECK_S = 10.0
"""For so long at most a stream outlives what proved whose it is."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class OpenStreams(Protocol):
    """The streams of one process, by what opened them."""

    @property
    def logins(self) -> set[bytes]:
        """Hashes of cookies."""
        ...

    @property
    def api_keys(self) -> set[str]:
        """Ids."""
        ...

    def cut_logins(self, over: Collection[bytes]) -> None: ...

    def cut_keys(self, over: Collection[str]) -> None: ...


class KnownLogins(Protocol):
    """PostgreSQL's."""

    async def alive(self, cookie_hashes: Collection[bytes], now_ms: int) -> set[bytes]: ...


class KnownKeys(Protocol):
    """PostgreSQL's."""

    async def alive(self, key_ids: Collection[str], now_ms: int) -> set[str]: ...


class ProofWatch:
    """Asks for all streams of the process at once. ``logins``: None for an installation without them."""

    def __init__(
        self,
        streams: OpenStreams,
        logins: KnownLogins | None,
        keys: KnownKeys,
        *,
        every_s: float = CHECK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._streams = streams
        self._logins = logins
        self._keys = keys
        self._every_s = every_s
        self._clock = clock

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[ProofWatch]:
        """Until left."""
        task = asyncio.create_task(self._watch(), name="streams-proofs")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def look(self) -> None:
        """Cuts what is over. Raises StoreUnavailable."""
        logins, keys, now_ms = self._streams.logins, self._streams.api_keys, int(self._clock() * 1000)
        if logins and self._logins is not None:
            self._streams.cut_logins(logins - await self._logins.alive(logins, now_ms))
        if keys:
            self._streams.cut_keys(keys - await self._keys.alive(keys, now_ms))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except StoreUnavailable as error:
                logger.info("streams.proofs_not_looked_at", reason=str(error))
