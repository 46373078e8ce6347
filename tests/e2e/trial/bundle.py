"""The bundle of these tests: echoes as the echo bundle does, waits where a test holds it, and writes down what ran.

``message.payload`` has ``echo``, with the echo bundle's orders ``deltas``, ``delay_ms``, ``text_bytes``, ``fail`` and
``crash_after``, ``block_s`` and ``hold_gil_s``, and ``trial``, an object with any of:

- ``hold``: a file; the bundle waits until it exists
- ``hold_after``: how many deltas are sent before it waits (default 1)
- ``stubborn``: a cancel does not end it while it waits for the file
- ``deaf``: messages that come while it runs are left in the inbox
- ``hasty``: as ``deaf``, but the first message ends the wait, and is asked for without waiting for it
- ``usage``: tokens in and out, which it reports as those of ``trial-model``
- ``record``: a file that gets a line ``begin <turn> <attempt>``, and one ``end <turn> <attempt>`` however it ends,
  unless the process dies
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from kdcube.echo.bundle import crash_if_due, pause, read_orders, stop_others, take_steers, texts
from kdcube.sdk import Bundle, BundleError, Turn

bundle = Bundle("trial@1.0.0")
repeatable = Bundle("repeatable@1.0.0", max_attempts=2)
"""The same, as one that allows a second attempt."""

_POLL_S = 0.01


class Trial(msgspec.Struct, forbid_unknown_fields=True):
    hold: str | None = None
    hold_after: int = 1
    stubborn: bool = False
    deaf: bool = False
    hasty: bool = False
    usage: tuple[int, int] | None = None
    record: str | None = None


@repeatable.on_message
@bundle.on_message
async def answer(turn: Turn) -> None:
    trial = msgspec.convert(turn.payload.get("trial", {}), Trial)
    note(trial, "begin", turn)
    try:
        await run(turn, trial)
    finally:
        note(trial, "end", turn)


async def run(turn: Turn, trial: Trial) -> None:
    orders = read_orders(turn.payload)
    stop_others(orders)
    if trial.usage is not None:
        await turn.usage("trial-model", *trial.usage)
    sent = 0
    for text in texts(turn.text, orders):
        await crash_if_due(orders, sent)
        if sent == trial.hold_after:
            await held(turn, trial)
        if sent and orders.delay_ms:
            await (
                asyncio.sleep(orders.delay_ms / 1000)
                if trial.deaf or trial.hasty
                else pause(turn, orders.delay_ms / 1000)
            )
        await listen(turn, trial)
        await turn.delta(text)
        sent += 1
    if sent <= trial.hold_after:
        await held(turn, trial)
    await crash_if_due(orders, sent)
    await listen(turn, trial)
    if orders.fail:
        raise BundleError("trial_failed", orders.fail if isinstance(orders.fail, str) else "It was told to fail.")


async def held(turn: Turn, trial: Trial) -> None:
    while trial.hold is not None and not Path(trial.hold).exists():
        if trial.hasty and len(turn.inbox):
            taking = asyncio.ensure_future(turn.inbox.poll())
            await asyncio.sleep(0)
            taking.cancel()
            return
        try:
            await listen(turn, trial)
            await asyncio.sleep(_POLL_S)
        except asyncio.CancelledError:
            if not trial.stubborn:
                raise


async def listen(turn: Turn, trial: Trial) -> None:
    if not (trial.deaf or trial.hasty):
        await take_steers(turn)


def note(trial: Trial, what: str, turn: Turn) -> None:
    if trial.record is not None:
        with Path(trial.record).open("ab", buffering=0) as record:  # one write: lines of two processes never mix
            record.write(f"{what} {turn.id} {turn.attempt}\n".encode())
