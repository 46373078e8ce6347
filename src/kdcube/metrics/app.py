"""The metrics service: its parts, opened in order, and its routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from kdcube.config.metrics import MetricsSettings
from kdcube.gateway.edge import Edge
from kdcube.gateway.measuring import watch_process
from kdcube.gateway.probes import Check, Probes
from kdcube.gateway.routing import no_route, route
from kdcube.metrics.gathering import EVERY_S, Gathering
from kdcube.metrics.routes import MetricsRoutes
from kdcube.metrics.scraped import Scraped
from kdcube.metrics.targets import open_exporter
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.telemetry.instruments import Instruments

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Metrics:
    """The running application, itself ASGI."""

    def __init__(self, app: ASGIApp, probes: Probes) -> None:
        self._app = app
        self._probes = probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def drain(self) -> None:
        """Nothing is lost with it: what it knows is in Valkey and in what was exported."""
        self._probes.draining = True


@asynccontextmanager
async def open_gathering(settings: MetricsSettings, *, every_s: float = EVERY_S) -> AsyncGenerator[Gathering]:
    """Connects to Valkey, where it only reads. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    keys = Keys(service.gateway.tenant, service.gateway.project)
    async with open_connection(service.redis_url, name=service.instance_id) as connection:
        yield Gathering(connection, keys, every_s=every_s)


@asynccontextmanager
async def open_metrics(settings: MetricsSettings, *, every_s: float = EVERY_S) -> AsyncGenerator[Metrics]:
    """Gathers, and builds the application. Raises ConfigurationError, StoreUnavailable."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        gathering = await enter(open_gathering(settings, every_s=every_s))
        await enter(gathering.running())
        instruments = Instruments()
        watch_process(instruments)
        exporter = await enter(open_exporter(settings.export, lambda: gathering.picture, instruments))

        async def sight() -> None:
            gathering.check()

        checks: dict[str, Check] = {"valkey": sight}
        if settings.export.scheduled:
            await enter(exporter.exporting())
            checks["export"] = exporter.check
        elif settings.export.wanted:
            logger.warning("export.not_scheduled", remedy="set METRICS_SCHEDULER_ENABLED=1")
        probes = Probes(
            service="metrics", instance=settings.service.instance_id, report=dict[str, object], checks=checks
        )
        routes = MetricsRoutes(gathering, Scraped(settings.export.scrape_ttl_s, instruments), settings.export)
        yield Metrics(Edge(_router(routes, probes)), probes)


def _router(metrics: MetricsRoutes, probes: Probes) -> Router:
    return Router(
        [
            route("/metrics", GET=metrics.scrape),
            route("/metrics/combined", GET=metrics.combined),
            route("/metrics/export", GET=metrics.export),
            route("/metrics/{component}/system", GET=metrics.component),
            route("/live", GET=probes.health),
            route("/health", GET=probes.health),
            route("/ready", GET=probes.ready),
        ],
        redirect_slashes=False,
        default=no_route,
    )
