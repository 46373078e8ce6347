"""SIGSTOP of a proc for longer than its leases, then SIGCONT: what it still believes changes nothing any more."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.chaos.conftest import REPEATABLE, running
from tests.e2e.client import answer
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

WORDS = "one two three four five"
BEFORE_THE_BUNDLE = ("proc.claim.after", "proc.start.before", "proc.start.after", "proc.open.before")
"""Steps of a turn of which nothing has run, in their order."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory, steps) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("zombies"), steps, "--proc", "2") as stack:
        yield stack


@contextmanager
def asleep(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_claimant_sleeps_and_wakes(scene, conversation, gate, steps, choose, number):
    """One of the two leads the maintenance, so each is the zombie once."""
    await scene.watch()
    zombie, other = (scene.stack.pids[f"proc-{n}"] for n in (number, 1 - number))
    held = {"hold": str(gate), "hold_after": 3}
    unstarted: list[str] = []
    with asleep(other):
        in_turn = await scene.sent(WORDS, conversation, trial=held)
        again = await scene.sent(WORDS, f"{conversation}-again", bundle_id=REPEATABLE, trial=held)
        scene.history.repeatable.add(again)
        for turn in (in_turn, again):
            await scene.follow(turn, deltas=3)
        behind = await scene.sent("behind", conversation)
        for step in reversed(BEFORE_THE_BUNDLE):
            steps[step].close()  # what comes after this one waits at an earlier step
            unstarted.append(await scene.sent(WORDS, f"{conversation}-{step}", trial=held))
            assert await steps[step].pid() == zombie
    with asleep(zombie):
        for step in choose.sample(BEFORE_THE_BUNDLE, len(BEFORE_THE_BUNDLE)):
            steps[step].open()
        for turn in unstarted:
            await scene.follow(turn, deltas=3)
        await scene.follow(again, at=1, deltas=6)
        await scene.read(in_turn)
    await asyncio.sleep(choose.uniform(0.0, 3.0))
    gate.open()
    stored = await scene.settled()
    assert (stored[in_turn]["state"], stored[in_turn]["answer"]) == ("interrupted", "one two three ")
    assert answer(scene.seen(in_turn)) == "one two three "
    assert (stored[again]["state"], stored[again]["attempt"]) == ("completed", 2)
    assert {stored[turn]["state"] for turn in (behind, *unstarted)} == {"completed"}
    assert all(scene.history.began().count(turn) == 1 for turn in unstarted)
