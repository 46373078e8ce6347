"""The composition root of proxylogin: settings, the application, one socket, a drain at SIGTERM."""

from __future__ import annotations

import sys

import structlog
import uvicorn
import uvloop
from structlog.typing import FilteringBoundLogger

from kdcube.config.load import load_service
from kdcube.config.proxylogin import ProxyLoginSettings
from kdcube.gateway.connections import BoundedHttp
from kdcube.gateway.serving import BACKLOG, KEEP_ALIVE_S, DrainingServer, listening
from kdcube.protocol.errors import KDCubeError
from kdcube.proxylogin.app import open_proxylogin
from kdcube.telemetry import failpoints
from kdcube.telemetry.logging import configure

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: ProxyLoginSettings) -> None:
    """Serves until a signal. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    with listening(service.host, service.port, "PROXYLOGIN_PORT") as listener:
        async with open_proxylogin(settings) as proxylogin:
            config = uvicorn.Config(
                proxylogin,
                loop="uvloop",
                http=BoundedHttp,
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
            logger.info("proxylogin.ready", host=service.host, port=service.port)
            await DrainingServer(config, proxylogin.drain, "proxylogin").serve([listener])


def main() -> int:
    """``python -m kdcube.proxylogin``: 0 after a drain, 1 with one line when it cannot start."""
    try:
        settings, warnings = load_service(ProxyLoginSettings, "proxylogin")
        configure("proxylogin", settings.service.instance_id, settings.service.log_level)
        if warnings:
            logger.warning("settings.without_meaning", warnings=warnings)
        failpoints.install(settings.service.failpoints)
        uvloop.run(serve(settings))
    except KDCubeError as error:
        print(f"kdcube-proxylogin: {error}", file=sys.stderr)
        return 1
    return 0
