"""The exporter with all targets that are configured."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.exporting import ExportSettings
from kdcube.metrics.cloudwatch import open_cloudwatch
from kdcube.metrics.exporting import Exporter, Target
from kdcube.metrics.picture import Picture
from kdcube.metrics.pushgateway import open_push_gateway
from kdcube.telemetry.instruments import Instruments

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def open_exporter(
    settings: ExportSettings, picture: Callable[[], Picture], instruments: Instruments
) -> AsyncGenerator[Exporter]:
    """It exports nothing by itself: see ``Exporter.exporting``. Raises ConfigurationError."""
    async with AsyncExitStack() as stack:
        targets: list[Target] = []
        if settings.cloudwatch.enabled:
            targets.append(await stack.enter_async_context(open_cloudwatch(settings.cloudwatch)))
        if settings.push is not None:
            targets.append(await stack.enter_async_context(open_push_gateway(settings.push)))
        if settings.warnings:
            logger.warning("export.without_meaning", warnings=list(settings.warnings))
        yield Exporter(
            targets,
            picture,
            settings.mapping,
            instruments,
            every_s=settings.every_s,
            on_start=settings.on_start,
        )
