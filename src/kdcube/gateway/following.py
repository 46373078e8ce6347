"""Keeps a process on the last version of the configuration.

A message over Valkey says that there is a new one. It is a hint: whoever missed it, because Valkey or PostgreSQL was
away, finds the version at the next look, which is at most CHECK_S later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.adopting import unreadable
from kdcube.gateway.documents import InvalidDocument, resolved
from kdcube.gateway.live import LiveGateway, Source
from kdcube.postgres.gateway_configs import GatewayConfigs
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import Subscriber

CHECK_S = 10.0
RETRY_S = 1.0
"""After a look that failed, since somebody said that there is something to see."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Following:
    """Applies to ``live`` what ``configs`` says is to be run."""

    def __init__(
        self,
        live: LiveGateway,
        configs: GatewayConfigs,
        connection: Connection,
        subscriber: Subscriber,
        keys: Keys,
        *,
        check_s: float = CHECK_S,
    ) -> None:
        self._live = live
        self._configs = configs
        self._connection = connection
        self._subscriber = subscriber
        self._channel = keys.config_channel
        self._check_s = check_s
        self._told = asyncio.Event()
        self._looking = asyncio.Lock()
        self._failed = False

    @asynccontextmanager
    async def following(self) -> AsyncGenerator[Following]:
        """Follows until left."""
        task = asyncio.create_task(self._follow(), name="gateway-following")
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
            logger.warning("gateway.not_published", version=version, reason=str(error))
            return False
        return True

    async def look(self) -> None:
        """Applies the last version, if it is another one. Raises StoreUnavailable."""
        async with self._looking:
            stored = await self._configs.last()
            live = self._live
            if stored is None or stored.version == live.source.version:
                return
            try:
                config = resolved(stored.document, (live.current.tenant, live.current.project)).config
            except InvalidDocument as error:
                problem = unreadable(stored, error)
                if live.source.problem != problem:  # said once, not every few seconds
                    logger.error("gateway.stored_config_unreadable", version=stored.version, reason=str(error))
                    live.source = Source(live.source.version, problem)
                return
            live.apply(config, Source(stored.version))
            logger.info("gateway.config_applied", version=stored.version, checksum=live.checksum)

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
                    logger.warning("gateway.look_failed", reason=str(error))
                self._failed = True
            except Exception:
                logger.exception("gateway.look_failed")  # what keeps limits current must not end
                self._failed = True
            else:
                self._failed = False
