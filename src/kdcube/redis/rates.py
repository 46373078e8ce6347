"""Rates: how many messages and guarded requests a user, and the address of anonymous users, may send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_CHARGE = Script("charge")

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``burst`` in a window of ``burst_window_s`` and ``hourly`` in an hour; -1 is none. A window begins with its first
    message. One address may send ``address_share`` times as much, however many anonymous users come from it.
    """

    burst: int
    burst_window_s: float
    hourly: int
    address_share: int = 1


UNLIMITED = RateLimit(-1, 60, -1)


@dataclass(frozen=True, slots=True)
class Window:
    """What is left of one limit, by the clock of Valkey: ``left`` of ``quota``, and more in ``reset_s``."""

    name: str
    quota: int
    window_s: float
    left: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Sender:
    """From where a user sends. An anonymous user's ``address`` counts as well; without ``rated`` nothing does."""

    address: str | None = None
    rated: bool = True


Left: TypeAlias = tuple[Window, ...]
"""What is left of each limit that there is: ``burst``, then ``hourly``."""


@dataclass(frozen=True, slots=True)
class OverRate:
    """Refused, and not counted. ``reason``: rate_limit_burst, rate_limit_hourly."""

    reason: str
    retry_after_s: float
    left: Left


class Rates:
    """The rates of one partition."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def charge(self, user_id: str, limit: RateLimit, address: str | None = None) -> Left | OverRate:
        """Counts a request, or refuses it. ``address`` is that of an anonymous user. Raises StoreUnavailable."""
        reason, wait_ms, left = await self._run(user_id, limit, address, 1)
        told = left_of(limit, left)
        return OverRate(reason.decode(), wait_ms / 1000, told) if reason else told

    async def left(self, user_id: str, limit: RateLimit, address: str | None = None) -> Left:
        """What is left, without changing it. Raises StoreUnavailable."""
        return left_of(limit, (await self._run(user_id, limit, address, 0))[2])

    def _run(self, user_id: str, limit: RateLimit, address: str | None, count: int) -> Any:
        return _CHARGE(
            self._connection, rate_keys(self._keys, user_id, address), [*rate_arguments(limit, address), count]
        )


def rate_keys(keys: Keys, user_id: str, address: str | None) -> list[str]:
    """What scripts that include ``rates`` are given."""
    of_user = keys.rate(user_id)
    return [of_user, of_user if address is None else keys.address_rate(address)]


def rate_arguments(limit: RateLimit, address: str | None) -> tuple[int, int, int, int]:
    """The same."""
    share = 0 if address is None else limit.address_share
    return limit.burst, int(limit.burst_window_s * 1000), limit.hourly, share


def left_of(limit: RateLimit, told: list[int]) -> Left:
    """From a script's reply."""
    burst, burst_ms, hourly, hourly_ms = told
    windows = (
        Window("burst", limit.burst, limit.burst_window_s, burst, burst_ms / 1000),
        Window("hourly", limit.hourly, HOUR_S, hourly, hourly_ms / 1000),
    )
    return tuple(window for window in windows if window.left >= 0)
