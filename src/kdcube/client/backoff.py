"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST_S = 0.25
_MOST_S = 8.0


class Backoff:
    """Pauses that double, each cut by chance to between a half and the whole, so that clients do not come as one."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.first_s = _FIRST_S
        self._chance = chance
        self._pause_s = 0.0

    def reset(self) -> None:
        """It went well again."""
        self._pause_s = 0.0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """The next pause, in seconds."""
        self._pause_s = min(_MOST_S, self._pause_s * 2 or self.first_s)
        return max(self._pause_s * (1 + self._chance()) / 2, at_least_s)
