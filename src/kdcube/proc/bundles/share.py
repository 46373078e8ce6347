"""How much of proc's loop one host may take by what it says."""

from __future__ import annotations

SHARE = 0.25
BURST_S = 0.05
PAUSE_MAX_S = 1.0


class ReadShare:
    """Counts the time that reading takes, whatever is said in it: a quarter of the loop, and 50 ms at once.

    All hosts together take about a quarter of a busy proc's time, so what works is not slowed by it, and a host that
    says things in an endless loop leaves the loop to the others.
    """

    def __init__(self, share: float = SHARE, burst_s: float = BURST_S) -> None:
        self._share = share
        self._burst_s = burst_s
        self._left_s = burst_s
        self._at: float | None = None

    def spend(self, seconds: float, now: float) -> float:
        """For how long nothing should be read from now on, after a read that took ``seconds``; mostly 0."""
        if self._at is not None:
            self._left_s = min(self._burst_s, self._left_s + (now - self._at) * self._share)
        self._at = now
        self._left_s -= seconds
        if self._left_s >= 0:
            return 0.0
        return min(-self._left_s / self._share, PAUSE_MAX_S)
