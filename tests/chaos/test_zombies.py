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
async def test_a_claimant_sleeps_and_wakes(enter, conversation, gate, steps, choose, number):
    """One of the two leads the maintenance, so each is the zombie once."""
    scene = enter()
    await scene.watch()
    zombie, other = (scene.stack.pids[f"proc-{n}"] for n in (number, 1 - number))
    held = {"hold": str(gate), "hold_after": 3}
    before_start = steps[
        choose.choice(["proc.claim.after", "proc.start.before", "proc.start.after", "proc.open.before"])
    ]
    with asleep(other):
        in_turn = await scene.sent(WORDS, conversation, trial=held)
        again = await scene.sent(WORDS, f"{conversation}-again", bundle_id=REPEATABLE, trial=held)
        scene.history.repeatable.add(again)
        for turn in (in_turn, again):
            await scene.follow(turn, deltas=3)
        behind = await scene.sent("behind", conversation)
        before_start.close()
        unstarted = await scene.sent(WORDS, f"{conversation}-unstarted", trial=held)
        assert await before_start.pid() == zombie
    with asleep(zombie):
        before_start.open()
        await scene.follow(unstarted, deltas=3)
        await scene.follow(again, at=1, deltas=6)
        await scene.read(in_turn)
    await asyncio.sleep(choose.uniform(0.0, 3.0))
    gate.open()
    stored = await scene.settled()
    assert (stored[in_turn]["state"], stored[in_turn]["answer"]) == ("interrupted", "one two three ")
    assert answer(scene.seen(in_turn)) == "one two three "
    assert (stored[again]["state"], stored[again]["attempt"]) == ("completed", 2)
    assert (stored[unstarted]["state"], stored[behind]["state"]) == ("completed", "completed")
    assert scene.history.began().count(unstarted) == 1
