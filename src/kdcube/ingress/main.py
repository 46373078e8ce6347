"""The composition root of ingress: the application, one socket, a drain at SIGTERM."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.ingress import IngressSettings
from kdcube.gateway.serving import DrainingServer, collect_rarely, http_config, listening, run_service
from kdcube.ingress.app import open_ingress
from kdcube.ingress.connections import HandingOver

GC_AFTER_OBJECTS = 10_000
"""Requests that are under way at once make and drop thousands of objects, hardly any of them in cycles."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: IngressSettings) -> None:
    """Serves until a signal. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    with listening(service.host, service.port, "CHAT_APP_PORT") as listener:
        async with open_ingress(settings) as ingress:
            config = http_config(ingress, http=HandingOver, stop_timeout_s=settings.stop_timeout_s)
            collect_rarely(GC_AFTER_OBJECTS)
            logger.info("ingress.ready", host=service.host, port=service.port)
            await DrainingServer(config, ingress.drain, "ingress").serve([listener])


def main() -> int:
    """``python -m kdcube.ingress``."""
    return run_service("ingress", IngressSettings, serve)
