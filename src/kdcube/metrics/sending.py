"""Sending again what was not taken, within bounds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from kdcube.protocol.errors import KDCubeError

ATTEMPTS = 5
FIRST_S = 0.5
MOST_S = 8.0


class ExportFailed(KDCubeError):
    """What was to be exported was not taken. ``again``: it may be, if it is sent once more."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


class Resending:
    """Pauses are drawn between nothing and a bound that doubles (*full jitter*), so that many who were refused together
    do not come back together.
    """

    def __init__(
        self,
        *,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._attempts = attempts
        self._sleep = sleep
        self._chance = chance

    async def send(self, send: Callable[[], Awaitable[None]]) -> None:
        """Raises ExportFailed, the last one, when it may not be sent again, or often enough."""
        for attempt in range(self._attempts):
            try:
                return await send()
            except ExportFailed as error:
                if not error.again or attempt == self._attempts - 1:
                    raise
            await self._sleep(self._chance() * min(MOST_S, FIRST_S * 2**attempt))
