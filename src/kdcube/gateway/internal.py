"""The internal port of a service: what its own process counted, for Prometheus alone.

It has a socket of its own, so that no route of the public one leads here, whatever a proxy in front of it does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from structlog.typing import FilteringBoundLogger

from kdcube.config.service import INTERNAL_PORT, ServiceSettings
from kdcube.gateway.edge import Edge
from kdcube.gateway.routing import no_route, route
from kdcube.gateway.serving import ServerBeside, http_config, listening
from kdcube.telemetry.exposition import COMPONENT, exposed
from kdcube.telemetry.instruments import Instruments

_STOP_S = 2.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def internal_port(service: ServiceSettings, instruments: Instruments) -> AsyncGenerator[None]:
    """Serves ``GET /metrics`` on KDCUBE_INTERNAL_PORT until left; nothing when that is unset.

    Raises ConfigurationError when it cannot listen there.
    """
    if service.internal_port is None:
        yield
        return

    async def metrics(request: Request) -> Response:
        told = exposed([{**instruments.totals(), COMPONENT: service.component}], request.headers.get("accept", ""))
        return Response(told.body, headers={"content-type": told.content_type})

    router = Router([route("/metrics", GET=metrics)], redirect_slashes=False, default=no_route)
    with listening(service.host, service.internal_port, INTERNAL_PORT) as listener:
        async with ServerBeside(http_config(Edge(router), stop_timeout_s=_STOP_S)).serving(listener):
            logger.info("internal_port.ready", host=service.host, port=service.internal_port)
            yield
