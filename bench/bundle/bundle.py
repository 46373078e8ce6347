"""The bundle that benches run: deltas as fast as it can, or at a pace, and its own times in its text.

``message.payload = {"bench": {...}}`` with ``deltas`` (at least 2), ``pause_ms`` between them, and ``alternate``, which
gives neighbours different markers, so that none are joined (if their number is odd). The first and the last word are
the moments, on the machine's monotonic clock in nanoseconds, at which it began and ended.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import msgspec

from kdcube.sdk import Bundle, OperationContext, Turn

bundle = Bundle("bench@1.0.0")

WORD = "word "


class Orders(msgspec.Struct, forbid_unknown_fields=True):
    deltas: int = 20
    pause_ms: float = 0
    alternate: bool = False


@bundle.on_message
async def speak(turn: Turn) -> None:
    began_ns = time.monotonic_ns()
    orders = msgspec.convert(turn.payload.get("bench", {}), Orders)
    markers: tuple[Literal["answer", "thinking"], ...] = ("answer", "thinking" if orders.alternate else "answer")
    await turn.delta(f"{began_ns} ")
    for number in range(1, orders.deltas - 1):
        if orders.pause_ms:
            await asyncio.sleep(orders.pause_ms / 1000)
        await turn.delta(WORD, markers[number % 2])
    await turn.delta(str(time.monotonic_ns()))


@bundle.operation("add")
async def add(ctx: OperationContext, data: list[int]) -> int:
    return sum(data)
