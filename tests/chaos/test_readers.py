"""Readers that stop for a while under load, and go on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import httpx
import pytest
from tests.e2e.client import logged, told_end_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

PAUSE_S = 10.0
TURNS = 8
DELTAS = 1500
TEXT_BYTES = 700


async def test_a_reader_that_stops_for_ten_seconds_misses_nothing(scene, conversation, choose):
    """More is said meanwhile than any buffer on the way holds. If it is cut for that, it goes on with its cursor."""
    seen, turns = scene.history.view("stopped"), list[str]()
    async with scene.client.user_stream() as stream:
        await stream.until(lambda event: event.name == "ready")
        for number in range(TURNS):
            orders = {"deltas": DELTAS, "text_bytes": TEXT_BYTES, "delay_ms": choose.choice([0, 0, 1])}
            turns.append(await scene.sent("load", f"{conversation}-{number}", at=number, echo=orders))
        for _ in range(choose.randint(1, 200)):
            await stream.next()
        await asyncio.sleep(PAUSE_S)
        all_told = told_end_of(*turns)
        with suppress(httpx.TransportError):
            while (event := await stream.next()) and not all_told(event):
                pass
        seen += stream.events
    if not all_told(seen[-1]):
        await scene.client.follow("/sse/stream", seen, all_told, at=1)
    stored = await scene.settled()
    for number, turn in enumerate(turns):
        assert (stored[turn]["state"], len(stored[turn]["answer"])) == ("completed", DELTAS * TEXT_BYTES)
        assert data_of(seen, turn) == data_of(scene.seen(turn, at=number), turn)


def data_of(events, turn):
    return [event.data for event in logged(events, turn)]
