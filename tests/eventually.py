"""Waiting for what no event tells: the state of another process, which is to be had by asking only.

Whoever can wait on an event does: a line of a log, a published message, a subscription. Each use says why there is
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
_PAUSE_S = 0.02


async def eventually(ask: Callable[[], Awaitable[T]], what: str, *, within_s: float = PATIENCE_S) -> T:
    """Asks until the answer is true in a condition, and gives it. Fails with ``what`` was waited for."""
    answer: T | None = None
    try:
        async with asyncio.timeout(within_s):
            while not (answer := await ask()):
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}; the last answer was {answer!r}") from None
    return answer
