"""A loop whose time is moved on by hand: no nap of the product costs the test anything."""

from __future__ import annotations

import asyncio


class SteppedLoop(asyncio.SelectorEventLoop):
    """Real time plus what was skipped."""

    def __init__(self) -> None:
        self._skipped_s = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self._skipped_s

    def skip(self, seconds: float) -> None:
        """Timers that are due within ``seconds`` fire in the next turns of the loop."""
        self._skipped_s += seconds

    @property
    def busy(self) -> bool:
        """Something can go on without waiting for I/O or time."""
        return bool(self._ready)
