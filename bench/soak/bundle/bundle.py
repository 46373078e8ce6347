"""What the soak runs: an echo that writes down when it began and ended, and that leaks on request.

``message.payload`` has ``echo``, the orders of the echo bundle, and ``soak``: ``record``, a file that gets a line
``begin <turn> <attempt>`` and one ``end <turn> <attempt>`` however it ends, unless the process dies; ``leak_bytes`` and
``leak_files``, what this process shall keep for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import msgspec

from kdcube.echo.bundle import pause, read_orders, take_steers, texts
from kdcube.sdk import Bundle, BundleError, Turn

bundle = Bundle("soak@1.0.0")
repeatable = Bundle("soak-repeatable@1.0.0", max_attempts=2)
"""The same, as one that allows a second attempt."""

_kept: list[bytes | BinaryIO] = []


class Orders(msgspec.Struct, forbid_unknown_fields=True):
    record: str
    leak_bytes: int = 0
    leak_files: int = 0


@repeatable.on_message
@bundle.on_message
async def answer(turn: Turn) -> None:
    orders = msgspec.convert(turn.payload["soak"], Orders)
    if orders.leak_bytes:
        _kept.append(b"x" * orders.leak_bytes)
    for _ in range(orders.leak_files):
        _kept.append(Path("/dev/null").open("rb"))  # noqa: ASYNC230, SIM115 - to leak it is its purpose
    note(orders, "begin", turn)
    try:
        await run(turn)
    finally:
        note(orders, "end", turn)


async def run(turn: Turn) -> None:
    orders = read_orders(turn.payload)
    for text in texts(turn.text, orders):
        await take_steers(turn)
        await turn.delta(text)
        if orders.delay_ms:
            await pause(turn, orders.delay_ms / 1000)
    await take_steers(turn)
    if orders.fail:
        raise BundleError("soak_failed", "It was told to fail.")


def note(orders: Orders, what: str, turn: Turn) -> None:
    with Path(orders.record).open("ab", buffering=0) as record:  # one write: lines of two processes never mix
        record.write(f"{what} {turn.id} {turn.attempt}\n".encode())
