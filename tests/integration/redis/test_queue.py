"""The queue on real servers."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def test_a_turn_goes_from_its_admission_to_its_end_and_leaves_nothing(partition):
    message = await partition.admitted()
    claim = await partition.running(message)
    await partition.append(claim, 1, 1, "a", "b")
    assert await partition.finish(claim)
    assert [line.partition(b" ")[0] for line in await partition.log_lines(message.turn_id)] == [
        b"start", b"delta", b"delta", b"complete",
    ]  # fmt: skip
    assert [event["type"] for event in await partition.feed_events()] == [
        "turn.accepted", "turn.started", "turn.ended",
    ]  # fmt: skip
    await partition.check_empty()
