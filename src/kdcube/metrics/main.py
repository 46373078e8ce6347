"""The composition root of the metrics service: the application and one socket, or one reading and its export."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.metrics import MetricsSettings
from kdcube.gateway.serving import DrainingServer, http_config, listening, run_service
from kdcube.metrics.app import open_gathering, open_metrics
from kdcube.metrics.sending import ExportFailed
from kdcube.metrics.targets import open_exporter
from kdcube.telemetry.instruments import Instruments

STOP_TIMEOUT_S = 10.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: MetricsSettings) -> None:
    """Serves until a signal, or with METRICS_RUN_ONCE gathers and exports once.

    Raises ConfigurationError, StoreUnavailable, and of a single run whatever keeps it from being exported.
    """
    if settings.run_once:
        await run_once(settings)
        return
    service = settings.service
    with listening(service.host, service.port, "METRICS_PORT") as listener:
        async with open_metrics(settings) as metrics:
            config = http_config(metrics, stop_timeout_s=STOP_TIMEOUT_S)
            logger.info("metrics.ready", host=service.host, port=service.port)
            await DrainingServer(config, metrics.drain, "metrics").serve([listener])


async def run_once(settings: MetricsSettings) -> None:
    """Raises as ``serve``."""
    async with open_gathering(settings) as gathering:
        await gathering.gather()
        gathering.check()
        async with open_exporter(settings.export, lambda: gathering.picture, Instruments()) as exporter:
            if failures := await exporter.export():
                raise ExportFailed("; ".join(failures), again=True)


def main() -> int:
    """``python -m kdcube.metrics``."""
    return run_service("metrics", MetricsSettings, serve)
