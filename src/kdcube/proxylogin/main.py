"""The composition root of proxylogin: the application, one socket, a drain at SIGTERM."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.proxylogin import ProxyLoginSettings
from kdcube.gateway.serving import DrainingServer, http_config, listening, run_service
from kdcube.proxylogin.app import open_proxylogin

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: ProxyLoginSettings) -> None:
    """Serves until a signal. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    with listening(service.host, service.port, "PROXYLOGIN_PORT") as listener:
        async with open_proxylogin(settings) as proxylogin:
            config = http_config(proxylogin, stop_timeout_s=settings.stop_timeout_s)
            logger.info("proxylogin.ready", host=service.host, port=service.port)
            await DrainingServer(config, proxylogin.drain, "proxylogin").serve([listener])


def main() -> int:
    """``python -m kdcube.proxylogin``."""
    return run_service("proxylogin", ProxyLoginSettings, serve)
