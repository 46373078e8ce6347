"""Bundles that stand still."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.client import answer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LONGER_THAN_A_LEASE_S = 17.0
LONGER_THAN_THE_BEAT_S = 3600.0


async def test_a_loop_that_is_blocked_for_longer_than_a_lease(scene, conversation, choose):
    """The turn completes, and one beside it in the same host too: proc, not the bundle, keeps their leases."""
    await scene.watch()
    block_s = LONGER_THAN_A_LEASE_S + choose.uniform(0.0, 1.0)
    beside = await scene.sent("one two three", f"{conversation}-2", echo={"delay_ms": 500})
    await scene.follow(beside, deltas=1)
    blocked = await scene.sent("one two three", conversation, echo={"block_s": block_s})
    behind = await scene.sent("behind", conversation)
    stored = await scene.settled()
    for turn in (beside, blocked, behind):
        assert (stored[turn]["state"], stored[turn]["attempt"]) == ("completed", 1)


async def test_an_interpreter_that_is_held_for_longer_than_the_beat(scene, conversation, choose):
    """Its host is killed: what ran there is interrupted with what it had said, what waited runs in another host."""
    await scene.watch()
    beside = await scene.sent("one two three", f"{conversation}-2", echo={"delay_ms": 60_000})
    await scene.follow(beside, deltas=1)
    await asyncio.sleep(choose.uniform(0.0, 1.0))
    held = await scene.sent("one two three", conversation, echo={"hold_gil_s": LONGER_THAN_THE_BEAT_S})
    behind = await scene.sent("behind", conversation)
    stored = await scene.settled()
    assert (stored[held]["state"], stored[held]["answer"]) == ("interrupted", "")
    assert (stored[beside]["state"], stored[beside]["answer"]) == ("interrupted", "one ")
    assert answer(scene.seen(beside)) == "one "
    assert (stored[behind]["state"], stored[behind]["attempt"]) == ("completed", 1)
