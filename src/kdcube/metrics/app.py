"""The metrics service: its parts, opened in order, and its routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from kdcube.config.metrics import MetricsSettings
from kdcube.gateway.edge import Edge
from kdcube.gateway.probes import Probes
from kdcube.gateway.routing import no_route, route
from kdcube.metrics.gathering import Gathering
from kdcube.metrics.routes import MetricsRoutes
from kdcube.metrics.scraped import Scraped
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys

SCRAPE_TTL_S = 1.0


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
async def open_gathering(settings: MetricsSettings) -> AsyncGenerator[Gathering]:
    """Connects to Valkey, where it only reads. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    keys = Keys(service.gateway.tenant, service.gateway.project)
    async with open_connection(service.redis_url, name=service.instance_id) as connection:
        yield Gathering(connection, keys)


@asynccontextmanager
async def open_metrics(settings: MetricsSettings) -> AsyncGenerator[Metrics]:
    """Gathers, and builds the application. Raises ConfigurationError, StoreUnavailable."""
    async with AsyncExitStack() as stack:
        gathering = await stack.enter_async_context(open_gathering(settings))
        await stack.enter_async_context(gathering.running())

        async def sight() -> None:
            gathering.check()

        probes = Probes(
            service="metrics", instance=settings.service.instance_id, report=dict[str, object], checks={"valkey": sight}
        )
        routes = MetricsRoutes(gathering, Scraped(SCRAPE_TTL_S))
        yield Metrics(Edge(_router(routes, probes)), probes)


def _router(metrics: MetricsRoutes, probes: Probes) -> Router:
    return Router(
        [
            route("/metrics", GET=metrics.scrape),
            route("/metrics/combined", GET=metrics.combined),
            route("/metrics/{component}/system", GET=metrics.component),
            route("/live", GET=probes.health),
            route("/health", GET=probes.health),
            route("/ready", GET=probes.ready),
        ],
        redirect_slashes=False,
        default=no_route,
    )
