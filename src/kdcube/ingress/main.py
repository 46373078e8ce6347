"""The composition root of ingress: settings, the application, one socket, a drain at SIGTERM."""

from __future__ import annotations

import gc
import sys

import structlog
import uvicorn
import uvloop
from structlog.typing import FilteringBoundLogger

from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load_service
from kdcube.gateway.serving import BACKLOG, KEEP_ALIVE_S, DrainingServer, listening
from kdcube.ingress.app import open_ingress
from kdcube.ingress.connections import HandingOver
from kdcube.protocol.errors import KDCubeError
from kdcube.telemetry import failpoints
from kdcube.telemetry.logging import configure

GC_AFTER_OBJECTS = 10_000
"""Requests that are under way at once make and drop thousands of objects, hardly any of them in cycles."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: IngressSettings) -> None:
    """Serves until a signal. Raises ConfigurationError, StoreUnavailable."""
    with listening(settings.service.host, settings.service.port, "CHAT_APP_PORT") as listener:
        async with open_ingress(settings) as ingress:
            config = uvicorn.Config(
                ingress,
                loop="uvloop",
                http=HandingOver,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, int(settings.stop_timeout_s / 2)),
            )
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_AFTER_OBJECTS)
            logger.info("ingress.ready", host=settings.service.host, port=settings.service.port)
            await DrainingServer(config, ingress.drain, "ingress").serve([listener])


def main() -> int:
    """``python -m kdcube.ingress``: 0 after a drain, 1 with one line when it cannot start."""
    try:
        settings, warnings = load_service(IngressSettings, "ingress")
        configure("ingress", settings.service.instance_id, settings.service.log_level)
        if warnings:
            logger.warning("settings.without_meaning", warnings=warnings)
        failpoints.install(settings.service.failpoints)
        uvloop.run(serve(settings))
    except KDCubeError as error:
        print(f"kdcube-ingress: {error}", file=sys.stderr)
        return 1
    return 0
