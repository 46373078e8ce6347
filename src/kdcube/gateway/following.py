"""Keeps a process on the last version of what is stored for all.

A message over Valkey says that there is a new one. It is a hint: whoever missed it, because Valkey or PostgreSQL was
away, finds the version at the next look, which is at most CHECK_S later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import Connection
from kdcube.redis.subscriber import Subscriber

CHECK_S = 10.0
RETRY_S = 1.0
"""After a look that failed, since somebody said that there is something to see."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Following:
    """Calls ``look``, which applies the last version, whenever there may be another one. ``of`` names what is followed,
    for the log.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[None]],
        connection: Connection,
        subscriber: Subscriber,
        channel: str,
        *,
        of: str,
        check_s: float = CHECK_S,
    ) -> None:
        self._look = look
        self._connection = connection
        self._subscriber = subscriber
        self._channel = channel
        self._of = of
        self._check_s = check_s
        self._told = asyncio.Event()
        self._looking = asyncio.Lock()
        self._failed = False

    @asynccontextmanager
    async def following(self) -> AsyncGenerator[Following]:
        """Follows until left."""
        task = asyncio.create_task(self._follow(), name=f"{self._of}-following")
        self._subscriber.subscribe(self._channel, self._hear)
        try:
            yield self
        finally:
            self._subscriber.unsubscribe(self._channel, self._hear)
            task.cancel()
            await asyncio.wait({task})

    async def publish(self, version: int) -> bool:
        """Tells all processes of a new version; False when Valkey is away: then they find it by themselves."""
        try:
            await self._connection.call("PUBLISH", self._channel, str(version))
        except KDCubeError as error:
            logger.warning(f"{self._of}.not_published", version=version, reason=str(error))
            return False
        return True

    async def look(self) -> None:
        """Applies the last version, if it is another one. Raises StoreUnavailable."""
        async with self._looking:
            await self._look()

    def _hear(self, _: bytes | None) -> None:
        self._told.set()  # also after each subscription: something may have been said before

    async def _follow(self) -> None:
        while True:
            wait_s = RETRY_S if self._failed else self._check_s * random.uniform(0.8, 1.0)  # noqa: S311 (jitter)
            try:
                async with asyncio.timeout(wait_s):
                    await self._told.wait()
            except TimeoutError:
                pass
            self._told.clear()
            try:
                await self.look()
            except KDCubeError as error:
                if not self._failed:
                    logger.warning(f"{self._of}.look_failed", reason=str(error))
                self._failed = True
            except Exception:
                logger.exception(f"{self._of}.look_failed")  # what keeps a process current must not end
                self._failed = True
            else:
                self._failed = False
