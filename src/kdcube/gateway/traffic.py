"""What a service that serves people measures of its requests."""

from __future__ import annotations

from kdcube.protocol.turns import UserType
from kdcube.telemetry.instruments import Counter, Histogram, Instruments

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Traffic:
    """Time until the answer begins, by method, route and class of status; and who was refused for want of what."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._latencies: dict[tuple[str, str, int], Histogram] = {}
        self._refused: dict[tuple[str, int, UserType | None], Counter] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """``route`` is the pattern; empty for a request that no route serves."""
        key = (method, route, status // 100)
        histogram = self._latencies.get(key)
        if histogram is None:
            histogram = self._latencies[key] = self._instruments.histogram(
                "http_request_seconds",
                method=method if method in _METHODS else "other",
                route=route or "none",
                status=f"{status // 100}xx",
            )
        histogram.observe(seconds)

    def refused(self, reason: str, status: int, user_type: UserType | None) -> None:
        """A 429 or a 503. ``reason`` is the word of its error."""
        key = (reason, status, user_type)
        counter = self._refused.get(key)
        if counter is None:
            counter = self._refused[key] = self._instruments.counter(
                "requests_refused", reason=reason, status=str(status), user_type=user_type or "unknown"
            )
        counter.add()
