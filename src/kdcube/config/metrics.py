"""What the metrics service is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from kdcube.config.environment import Environment
from kdcube.config.exporting import ExportSettings
from kdcube.config.process import ProcessSettings
from kdcube.protocol.errors import ConfigurationError

MODE = "METRICS_MODE"


class Mode(StrEnum):
    """METRICS_MODE: where figures are read."""

    REDIS = "redis"
    """In Valkey, where every process writes what it counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """All of the metrics service, which needs Valkey alone. ``load(MetricsSettings)``."""

    service: ProcessSettings
    run_once: bool
    """Gather, export, and end: for whoever starts it by the clock."""
    export: ExportSettings

    @classmethod
    def read(cls, environment: Environment) -> Self:
        """Raises ConfigurationError."""
        _check_mode(environment)
        service = ProcessSettings.read(environment, component="metrics", port_name="METRICS_PORT", port=8090)
        return cls(
            service=service,
            run_once=environment.flag("METRICS_RUN_ONCE", False),
            export=ExportSettings.read(environment, service.gateway),
        )


def _check_mode(environment: Environment) -> None:
    if environment.text(MODE, Mode.REDIS).lower() == "proxy":
        raise ConfigurationError(
            MODE, "is 'proxy'; give redis: services tell their figures in Valkey, and nowhere else"
        )
    environment.choice(MODE, Mode, Mode.REDIS)
