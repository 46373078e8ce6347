"""The configuration that this process runs, which may change while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.changes import restarts_between
from kdcube.gateway.subscriptions import Subscriptions

Subscription: TypeAlias = Callable[[GatewayConfig], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from. ``version`` 0 is the environment's: none is stored, or none can be read."""

    version: int = 0
    problem: str | None = None
    """Why this process does not run the version that is to be run."""


class LiveGateway:
    """Whoever consumes limits reads ``current`` each time, or subscribes; nobody keeps a part of it otherwise."""

    def __init__(self, config: GatewayConfig, source: Source | None = None) -> None:
        self._current = config
        self._checksum = config.checksum
        self._started = config
        self._restarts: dict[str, list[str]] = {}
        self._subscriptions = Subscriptions[GatewayConfig]("gateway")
        self.source = source or Source()

    @property
    def current(self) -> GatewayConfig:
        return self._current

    @property
    def checksum(self) -> str:
        """That of ``current``."""
        return self._checksum

    def subscribe(self, callback: Subscription) -> None:
        """Calls ``callback`` with the current configuration now, and with each new one, on the event loop.

        It takes over what it is to enforce, quickly. One that raises later does not keep others from the change.
        """
        self._subscriptions.add(callback, self._current)

    def apply(self, config: GatewayConfig, source: Source | None = None) -> None:
        """Makes ``config`` the current one and tells all subscribers. Runs on the event loop."""
        self._current = config
        self._checksum = config.checksum
        self.source = source or self.source
        self._restarts = {}
        self._subscriptions.tell(config)

    def restarts(self, component: str) -> list[str]:
        """The fields of ``current`` that hold in this process of ``component`` only after its restart."""
        if component not in self._restarts:
            self._restarts[component] = restarts_between(self._started, self._current, component)
        return self._restarts[component]

    def report(self, component: str) -> dict[str, object]:
        """What the process says of its configuration, in health, readiness and heartbeats."""
        report: dict[str, object] = {"config_checksum": self._checksum, "config_version": self.source.version}
        if restarts := self.restarts(component):
            report["config_restart_pending"] = restarts
        if self.source.problem is not None:
            report["config_problem"] = self.source.problem
        return report
