"""What ingress is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import SecretStr

from kdcube.config.bundles import BundleRegistry
from kdcube.config.callers import CallerSettings
from kdcube.config.environment import Environment
from kdcube.config.service import ServiceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """All of ingress. ``load(IngressSettings)``."""

    service: ServiceSettings
    callers: CallerSettings
    keepalive_s: float
    """Between the comments that keep an idle stream open."""
    webhook_secrets: Mapping[str, SecretStr] = field(repr=False)
    """By which repositories of bundles sign pushes, by the names that the registry gives them."""
    stop_timeout_s: float
    """From SIGTERM until the process is killed; draining takes less."""

    @classmethod
    def read(cls, environment: Environment) -> Self:
        service = ServiceSettings.read(environment, component="ingress", port_name="CHAT_APP_PORT", port=8010)
        return cls(
            service=service,
            callers=CallerSettings.read(environment),
            webhook_secrets=_webhook_secrets(environment, service.bundles),
            keepalive_s=environment.seconds("KDCUBE_KEEPALIVE_SEC", 15.0, minimum=0.1, maximum=300),
            stop_timeout_s=environment.seconds("INGRESS_CONTAINER_STOP_TIMEOUT_SEC", 30.0, minimum=1, maximum=3_600),
        )

    async def webhook_secret(self, name: str) -> str | None:
        """None when it is not set."""
        value = self.webhook_secrets.get(name)
        return None if value is None else value.get_secret_value()


def _webhook_secrets(environment: Environment, bundles: BundleRegistry) -> dict[str, SecretStr]:
    values = {name: environment.secret(name) for name in sorted(bundles.webhook_secrets)}
    return {name: value for name, value in values.items() if value is not None}
