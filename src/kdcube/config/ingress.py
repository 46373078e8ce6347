"""What ingress is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from kdcube.config.callers import CallerSettings
from kdcube.config.environment import Environment
from kdcube.config.secrets import SecretSettings
from kdcube.config.service import ServiceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """All of ingress. ``load(IngressSettings)``."""

    service: ServiceSettings
    callers: CallerSettings
    keepalive_s: float
    """Between the comments that keep an idle stream open."""
    secrets: SecretSettings
    """Where the secrets are by which repositories of bundles sign pushes."""
    stop_timeout_s: float
    """From SIGTERM until the process is killed; draining takes less."""

    @classmethod
    def read(cls, environment: Environment) -> Self:
        service = ServiceSettings.read(environment, component="ingress", port_name="CHAT_APP_PORT", port=8010)
        return cls(
            service=service,
            callers=CallerSettings.read(environment),
            secrets=SecretSettings.read(environment, service.bundles.webhook_secrets),
            keepalive_s=environment.seconds("KDCUBE_KEEPALIVE_SEC", 15.0, minimum=0.1, maximum=300),
            stop_timeout_s=environment.seconds("INGRESS_CONTAINER_STOP_TIMEOUT_SEC", 30.0, minimum=1, maximum=3_600),
        )
