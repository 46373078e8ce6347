"""Who is told of each new value of something that changes while a process runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

T = TypeVar("T")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Subscriptions(Generic[T]):
    """Tells all, on the event loop. ``of`` names what changes, for the log."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._callbacks: list[Callable[[T], None]] = []

    def add(self, callback: Callable[[T], None], current: T) -> None:
        """Calls ``callback`` with ``current`` now, and with each new value."""
        callback(current)
        self._callbacks.append(callback)

    def tell(self, value: T) -> None:
        """One that raises does not keep others from the change."""
        for callback in self._callbacks:
            try:
                callback(value)
            except Exception:
                logger.exception(f"{self._of}.subscription_failed", subscription=repr(callback))
