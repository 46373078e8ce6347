"""A loop whose time is moved on by hand: no nap costs the test anything, and a history goes the same way each time."""

from __future__ import annotations

import asyncio


class SteppedLoop(asyncio.SelectorEventLoop):
    """Time stands still but for ``skip``."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__()

    def time(self) -> float:
        return self._now_s

    def skip(self, seconds: float) -> None:
        """Timers that are due within ``seconds`` fire in the next turns of the loop."""
        self._now_s += seconds

    @property
    def busy(self) -> bool:
        """Something can go on without waiting for I/O or time."""
        return bool(self._ready)
