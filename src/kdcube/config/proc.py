"""What proc is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from kdcube.config.callers import CallerSettings
from kdcube.config.environment import Environment
from kdcube.config.environments import EnvironmentSettings
from kdcube.config.git import GitSettings
from kdcube.config.secrets import SecretSettings
from kdcube.config.service import ServiceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcSettings:
    """All of proc. ``load(ProcSettings)``."""

    service: ServiceSettings
    slots: int
    """Turns at once in this process."""
    slots_given: bool
    """By KDCUBE_SLOTS: then the gateway configuration has no say in it."""
    turn_limit_s: float
    """No turn takes longer, whatever its bundle's ``wall_limit_s`` allows."""
    heartbeat_interval_s: float
    """Between the signs of life that say how many slots there are; leases are renewed with them, every 5 s at least."""
    stop_timeout_s: float
    """From SIGTERM until the process is killed."""
    drain_timeout_s: float
    """How long running turns may go on after SIGTERM; what is left of the stop is for ending them properly."""
    ecs_agent_uri: str | None
    """Where ECS is asked to protect the task while turns run; None outside ECS."""
    watch_bundles: bool
    """Bundles are reloaded when their files change."""
    debug_bundles: bool
    """Bundles run without limits of time, and ``breakpoint()`` in them waits for a debugger."""
    callers: CallerSettings
    """Who may call operations."""
    git: GitSettings
    """How bundles are fetched."""
    environments: EnvironmentSettings
    """How their packages are installed."""
    secrets: SecretSettings
    """Where the secrets of bundles are."""

    @classmethod
    def read(cls, environment: Environment) -> Self:
        service = ServiceSettings.read(environment, component="proc", port_name="CHAT_PROCESSOR_PORT", port=8020)
        capacity = service.gateway.service_capacity.proc
        stop_timeout_s = environment.seconds("PROC_CONTAINER_STOP_TIMEOUT_SEC", 120.0, minimum=1, maximum=86_400)
        return cls(
            service=service,
            slots=environment.integer(
                "KDCUBE_SLOTS", capacity.concurrent_requests_per_process, minimum=1, maximum=1_000
            ),
            slots_given=environment.optional("KDCUBE_SLOTS") is not None,
            turn_limit_s=environment.seconds("CHAT_TASK_TIMEOUT_SEC", 1_800.0, minimum=1, maximum=86_400),
            heartbeat_interval_s=environment.seconds("HEARTBEAT_INTERVAL", 5.0, minimum=0.1, maximum=60),
            stop_timeout_s=stop_timeout_s,
            drain_timeout_s=stop_timeout_s - min(10.0, stop_timeout_s / 4),
            ecs_agent_uri=environment.optional("ECS_AGENT_URI"),
            watch_bundles=environment.flag("KDCUBE_WATCH", False),
            debug_bundles=environment.flag("KDCUBE_DEBUG_BUNDLES", False),
            callers=CallerSettings.read(environment, opens_sessions=False),
            git=GitSettings.read(environment, service.bundles.fetched, service.bundles.own_keys),
            environments=EnvironmentSettings.read(environment),
            secrets=SecretSettings.read(environment, service.bundles.secret_references),
        )
