"""The bounds within which streams work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Defaults fit production; ``tick_s`` is how often everything below that takes a time is looked at."""

    max_streams: int = 5000
    """Open streams of this process; above, 503."""
    keepalive_s: float = 15.0
    """A comment goes out after so much silence."""
    opening_wait_s: float = 10.0
    """So long a stream that is being opened waits while Valkey is away or rebuilt: after a 503 an EventSource does not
    come back."""
    stall_s: float = 60.0
    """A reader that takes nothing for so long is closed; its cursor resumes."""
    recent_bytes: int = 256 * 1024
    """Recent events of each followed log that are kept in memory."""
    send_bytes: int = 64 * 1024
    """About how much goes out in one write."""
    check_s: float = 5.0
    """A log that is silent for so long is looked at (rule 22)."""
    feed_check_s: float = 15.0
    position_s: float = 2.0
    """Queue positions are asked for at most so often (rule 26)."""
    tick_s: float = 0.25
    drain_s: float = 3.0
    """How long ``shutdown`` waits for readers to take the goodbye."""
    reconnect_min_ms: int = 250
    reconnect_max_ms: int = 4000
    """After a drain each client is told to come back at a random moment between the two."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the time comes from."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def now_ms(self) -> int:
        return int(self.wall() * 1000)
