"""Each process says every few seconds that it lives, what it runs and what it counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube import __version__
from kdcube.config.service import ServiceSettings
from kdcube.gateway.live import LiveGateway
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.sources import Sources
from kdcube.telemetry.instruments import Instruments

EVERY_S = 5.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Reporting:
    """Writes the report of one process of ``component``. ``about`` are further facts for people."""

    def __init__(
        self,
        sources: Sources,
        instruments: Instruments,
        live: LiveGateway,
        service: ServiceSettings,
        component: str,
        *,
        about: Callable[[], Mapping[str, object]] = dict[str, object],
        every_s: float = EVERY_S,
    ) -> None:
        self._sources = sources
        self._instruments = instruments
        self._live = live
        self._service = service
        self._component = component
        self._about = about
        self._every_s = every_s
        self._failed = False

    @asynccontextmanager
    async def reporting(self) -> AsyncGenerator[None]:
        """Reports until left, and takes itself off the list then."""
        task = asyncio.create_task(self._report_for_ever(), name="reporting")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            with suppress(KDCubeError):
                await self._sources.leave(self._service.instance_id)

    async def write(self) -> None:
        """Raises StoreUnavailable."""
        kept = self._live.current.redis.of(self._component)
        service = self._service
        report = {
            **self._instruments.report(),
            "source": service.instance_id,
            "component": self._component,
            "about": {
                "version": __version__,
                "revision": service.revision,
                **self._live.report(self._component),
                **self._about(),
            },
        }
        await self._sources.write(
            service.instance_id,
            report,
            kept_s=kept.sse_stats_ttl_seconds,
            listed_s=max(kept.sse_stats_ttl_seconds, kept.sse_stats_max_age_seconds),
        )

    async def _report_for_ever(self) -> None:
        while True:
            try:
                await self.write()
                self._failed = False
            except KDCubeError as error:
                if not self._failed:
                    logger.warning("reporting.failed", reason=str(error))
                self._failed = True
            except Exception:
                logger.exception("reporting.failed")
            await asyncio.sleep(self._every_s)
