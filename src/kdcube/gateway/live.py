"""The configuration that this process runs, which may change while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.gateway import GatewayConfig

Subscription: TypeAlias = Callable[[GatewayConfig], None]

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class LiveGateway:
    """Whoever consumes limits reads ``current`` each time, or subscribes; nobody keeps a part of it otherwise."""

    def __init__(self, config: GatewayConfig) -> None:
        self._current = config
        self._checksum = config.checksum
        self._subscriptions: list[Subscription] = []

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
        callback(self._current)
        self._subscriptions.append(callback)

    def apply(self, config: GatewayConfig) -> None:
        """Makes ``config`` the current one and tells all subscribers. Runs on the event loop."""
        self._current = config
        self._checksum = config.checksum
        for callback in self._subscriptions:
            try:
                callback(config)
            except Exception:
                logger.exception("gateway.subscription_failed", subscription=repr(callback))
