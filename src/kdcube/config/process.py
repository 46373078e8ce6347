"""What every service is told: who it is, where it listens, where Valkey is, whose installation it serves."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from kdcube.config.environment import Environment
from kdcube.config.gateway import GatewayConfig, read_gateway
from kdcube.config.sections import COMPONENTS, component_of
from kdcube.protocol.errors import ConfigurationError


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """Of one process. The URL may hold a password and stays out of the representation."""

    component: str
    host: str
    port: int
    instance_id: str
    """Tells this process from others in logs and heartbeats."""
    revision: str
    """Of the deployment; the processes of an old one can be told to claim nothing more."""
    log_level: LogLevel
    redis_url: str = field(repr=False)
    gateway: GatewayConfig
    """The environment's; another one that was stored wins."""
    failpoints: str
    """For tests of crashes only; empty in every installation. See telemetry/failpoints.py."""

    @classmethod
    def read(cls, environment: Environment, *, component: str, port_name: str, port: int) -> Self:
        """Raises ConfigurationError."""
        _check_component(environment, component)
        port = environment.integer(port_name, port, minimum=1, maximum=65_535)
        return cls(
            component=component,
            host=environment.text("KDCUBE_HOST", "127.0.0.1"),
            port=port,
            instance_id=environment.text("INSTANCE_ID", f"{component}-{socket.gethostname()}-{port}"),
            revision=environment.text("KDCUBE_REVISION", "local"),
            log_level=environment.choice("LOG_LEVEL", LogLevel, LogLevel.INFO),
            redis_url=environment.required("REDIS_URL", "give redis://[user:password@]host[:port][/db]"),
            gateway=read_gateway(environment),
            failpoints=environment.text("KDCUBE_FAILPOINTS", ""),
        )

    def members(self) -> dict[str, Any]:
        """By name, for the settings of a service that is told more."""
        return {each.name: getattr(self, each.name) for each in fields(ProcessSettings)}


def _check_component(environment: Environment, component: str) -> None:
    """Every service knows which one it is; GATEWAY_COMPONENT may only say the same."""
    given = environment.optional("GATEWAY_COMPONENT")
    if given is not None and component in COMPONENTS and component_of(given) != component:
        raise ConfigurationError("GATEWAY_COMPONENT", f"is {given!r}, but this is {component}; remove it or correct it")
