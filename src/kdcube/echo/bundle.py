"""The echo bundle: says back what it is told, and misbehaves on request, for trials and for tests.

``message.payload = {"echo": {...}}`` with any of:

- ``deltas``: how many deltas to send; without it the words of the text, one delta each, with their white space
- ``delay_ms``: the pause between deltas
- ``text_bytes``: the size of each delta
- ``fail``: end with this error (true, or the text for the user), after the deltas
- ``crash_after``: the process exits after so many deltas (0: at once)
- ``block_s``: block the event loop for so long, first
- ``hold_gil_s``: stop the whole interpreter for so long, first

Messages that come while it runs are echoed as ``[steer: text]``.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from kdcube.sdk import Bundle, BundleError, Message, OperationContext, Turn

bundle = Bundle("echo@1.0.0")


Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3_600)]


class Orders(msgspec.Struct, forbid_unknown_fields=True):
    """What ``payload.echo`` may hold."""

    deltas: Count | None = None
    delay_ms: Milliseconds = 0
    text_bytes: Count | None = None
    fail: bool | str = False
    crash_after: Count | None = None
    block_s: Seconds = 0
    hold_gil_s: Seconds = 0


@bundle.on_message
async def echo(turn: Turn) -> None:
    orders = read_orders(turn.payload)
    stop_others(orders)
    sent = 0
    for text in texts(turn.text, orders):
        await crash_if_due(orders, sent)
        if sent and orders.delay_ms:
            await pause(turn, orders.delay_ms / 1000)
        else:
            await take_steers(turn)
        await turn.delta(text)
        sent += 1
    await crash_if_due(orders, sent)
    await take_steers(turn)
    if orders.fail:
        raise BundleError("echo_failed", orders.fail if isinstance(orders.fail, str) else "The echo was told to fail.")


@bundle.operation("echo")
async def echo_operation(ctx: OperationContext, data: Any) -> Any:
    """Gives back its data."""
    return {"data": data, "user": ctx.user.id}


def read_orders(payload: dict[str, Any]) -> Orders:
    try:
        return msgspec.convert(payload.get("echo", {}), Orders)
    except msgspec.ValidationError as error:
        raise BundleError("invalid_payload", f"payload.echo: {error}") from None


def texts(text: str, orders: Orders) -> Iterator[str]:
    """The deltas."""
    if orders.deltas is None:
        yield from words(text)
        return
    for number in range(orders.deltas):
        if orders.text_bytes is None:
            yield f"{number} "
        else:
            yield "x" * orders.text_bytes


def words(text: str) -> Iterator[str]:
    """Each word with the white space after it (the first also with what is before it); joined they are the text."""
    yield from re.findall(r"^\s*\S*\s*|\S+\s*", text)


async def pause(turn: Turn, delay_s: float) -> None:
    """Waits, and answers messages meanwhile."""
    until = asyncio.get_running_loop().time() + delay_s
    try:
        async with asyncio.timeout_at(until):
            while True:
                await answer_steer(turn, await turn.inbox.get())
    except TimeoutError:
        pass


async def take_steers(turn: Turn) -> None:
    while message := await turn.inbox.poll():
        await answer_steer(turn, message)


async def answer_steer(turn: Turn, message: Message) -> None:
    await turn.delta(f"[steer: {message.text}]")


async def crash_if_due(orders: Orders, sent: int) -> None:
    if orders.crash_after is not None and sent >= orders.crash_after:
        await asyncio.sleep(0.05)  # what was sent before leaves the process first
        os._exit(70)


def stop_others(orders: Orders) -> None:
    """Lets nothing else run in this process for as long as it is told to."""
    if orders.hold_gil_s:
        hold_gil(orders.hold_gil_s)
    if orders.block_s:
        time.sleep(orders.block_s)


def hold_gil(seconds: float) -> None:
    """A C call that never lets another thread run."""
    libc = ctypes.PyDLL(None)  # PyDLL, unlike CDLL, keeps the interpreter's lock during the call
    libc.usleep(int(seconds * 1_000_000))
