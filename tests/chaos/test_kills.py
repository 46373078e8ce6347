"""kill -9 of every part, in mid-turn: what clients saw must be a history that the promises allow."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.chaos.conftest import BUNDLE, REPEATABLE
from tests.e2e.client import answer, logged

pytestmark = pytest.mark.anyio

WORDS = "one two three four five"
OF_EVERY_TURN = (
    "proc.start.before",
    "proc.start.after",
    "proc.open.before",
    "proc.open.after",
    "proc.finish.before",
    "proc.finish.after",
    "proc.close.before",
    "proc.close.after",
)
"""In their order."""


async def test_ingress_in_mid_stream(scene, conversation, gate):
    await scene.watch(at=0)
    turn = await scene.sent(WORDS, conversation, trial={"hold": str(gate), "hold_after": 3})
    await scene.follow(turn, at=0, deltas=3)
    await scene.follow(turn, at=1, deltas=3)
    await scene.kill("ingress-0")
    gate.open()
    stored = await scene.settled()
    assert stored[turn]["answer"] == answer(scene.seen(turn)) == WORDS
    assert logged(scene.seen(turn)) == logged(scene.seen(turn, at=1))
    assert "resync" not in {event.name for events in scene.history.views.values() for event in events}


@pytest.mark.parametrize("step", ["ingress.accept.admitted", "ingress.accept.committed"])
async def test_ingress_before_it_could_answer(scene, conversation, steps, step):
    """The client sends again, with the same key, to the other process: it is one turn."""
    await scene.watch(at=1)
    steps[step].close()
    sending = asyncio.create_task(scene.sent(WORDS, conversation))
    await steps[step].reached()
    await scene.kill("ingress-0")
    steps[step].open()
    turn = await sending
    assert list(await scene.settled()) == [turn]
    assert scene.end(turn) == "completed"


async def test_proc_at_every_step_of_a_turn(enter, conversation, gate, steps):
    """One turn at each step, one in the middle of its answer, one behind it: before START they run later, from the
    moment when the bundle may have begun they are interrupted, or run again where the bundle allows it; from their
    commit on they are what was committed."""
    scene, other = enter(), enter()
    await scene.watch()
    await other.watch(at=1)
    running = await scene.sent(WORDS, conversation, trial={"hold": str(gate), "hold_after": 3})
    await scene.follow(running, deltas=3)
    behind = await scene.sent("behind", conversation)
    repeated = await other.sent(
        WORDS, f"{conversation}-again", bundle_id=REPEATABLE, trial={"hold": str(gate), "hold_after": 3}
    )
    await other.follow(repeated, deltas=3)
    other.history.repeatable.add(repeated)
    at: dict[str, str] = {}
    for number, step in enumerate(reversed(OF_EVERY_TURN)):
        steps[step].close()  # what comes after this one waits at an earlier step
        at[step] = await (scene, other)[number % 2].sent(WORDS, f"{conversation}-{number}", at=number)
        await steps[step].reached()
    await scene.kill("proc-0")
    for step in steps.values():
        step.open()
    await scene.healed()
    gate.open()
    stored = {**await scene.settled(), **await other.settled()}
    ends = {step: (stored[turn]["state"], stored[turn]["answer"]) for step, turn in at.items()}
    assert ends == {
        "proc.start.before": ("completed", WORDS),
        "proc.start.after": ("completed", WORDS),
        "proc.open.before": ("completed", WORDS),
        "proc.open.after": ("interrupted", ""),
        "proc.finish.before": ("interrupted", WORDS),
        "proc.finish.after": ("completed", WORDS),
        "proc.close.before": ("completed", WORDS),
        "proc.close.after": ("completed", WORDS),
    }
    assert (stored[running]["state"], stored[running]["answer"]) == ("interrupted", "one two three ")
    assert (stored[behind]["state"], stored[behind]["answer"]) == ("completed", "behind")
    assert stored[running]["attempt"] == 1
    assert (stored[repeated]["state"], stored[repeated]["answer"]) == ("completed", WORDS)
    assert [event.data["attempt"] for event in other.seen(repeated) if event.name == "chat_start"] == [1, 2]


async def test_a_bundle_host_in_mid_turn(scene, conversation, gate):
    await scene.watch()
    turns = [
        await scene.sent(WORDS, f"{conversation}-{n}", at=n, trial={"hold": str(gate), "hold_after": 3})
        for n in range(3)
    ]
    for turn in turns:
        await scene.follow(turn, deltas=3)
    behind = await scene.sent("behind", f"{conversation}-0")
    await kill_hosts(scene, BUNDLE)
    stored = await scene.settled()
    for turn in turns:
        assert (stored[turn]["state"], stored[turn]["answer"]) == ("interrupted", "one two three ")
        assert answer(scene.seen(turn)) == "one two three "
        assert scene.seen(turn)[-1].data["data"]["error"]["message"] == "The turn was interrupted."
    assert (stored[behind]["state"], stored[behind]["answer"]) == ("completed", "behind")


async def test_a_bundle_host_whose_bundle_allows_a_second_attempt(scene, conversation, gate):
    """The second attempt says which one it supersedes; a third is not made."""
    await scene.watch()
    orders = {"bundle_id": REPEATABLE, "trial": {"hold": str(gate), "hold_after": 3}}
    once = await scene.sent(WORDS, f"{conversation}-0", **orders)
    await scene.follow(once, deltas=3)
    await kill_hosts(scene, REPEATABLE)
    twice = await scene.sent(WORDS, f"{conversation}-1", **orders)
    scene.history.repeatable |= {once, twice}
    await scene.follow(once, at=1, deltas=6)
    await scene.follow(twice, deltas=3)
    await kill_hosts(scene, REPEATABLE)
    await scene.follow(twice, at=1, deltas=6)
    gate.open()
    stored = await scene.settled()
    assert (stored[once]["state"], stored[once]["attempt"]) == ("interrupted", 2)
    assert (stored[twice]["state"], stored[twice]["attempt"]) == ("completed", 2)
    assert answer(scene.seen(twice)) == WORDS
    starts = [event.data for event in scene.seen(twice) if event.name == "chat_start"]
    assert [(start["attempt"], start.get("supersedes")) for start in starts] == [(1, None), (2, 1)]


async def test_a_bundle_host_before_a_turn_reaches_it(scene, conversation, steps):
    """Nothing of the turn has run: it waits for the next host."""
    steps["proc.open.after"].close()
    turn = await scene.sent(WORDS, conversation)
    await steps["proc.open.after"].reached()
    dead = await kill_hosts(scene, BUNDLE)
    for _ in await asyncio.to_thread(scene.stack.attempts, "the hosts are missed"):
        if not dead & {*await asyncio.to_thread(scene.stack.host_pids, BUNDLE)}:
            break
    steps["proc.open.after"].open()
    stored = await scene.settled()
    assert (stored[turn]["state"], stored[turn]["attempt"]) == ("completed", 1)


async def kill_hosts(scene, bundle_id) -> set[int]:
    pids = await asyncio.to_thread(scene.stack.host_pids, bundle_id)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return set(pids)


async def test_valkey_in_mid_turn(scene, conversation, gate):
    """It comes back empty: what ran goes on under the claim that PostgreSQL knows, what waited waits again."""
    await scene.watch()
    ended = await scene.sent(WORDS, f"{conversation}-ended")
    before = await scene.client.ended(ended)
    running = await scene.sent(WORDS, conversation, trial={"hold": str(gate), "hold_after": 3})
    await scene.follow(running, at=0, deltas=3)
    await scene.follow(running, at=1, deltas=3)
    behind = [await scene.sent(f"behind {n}", conversation) for n in range(3)]
    await scene.kill("valkey")
    late = await scene.sent("late", conversation)
    await scene.healed()
    gate.open()
    stored = await scene.settled()
    assert {stored[turn]["state"] for turn in (running, late, *behind)} == {"completed"}
    assert scene.history.began()[1:] == [running, *behind, late]
    for at in (0, 1):
        assert [event.name for event in scene.seen(running, at)].count("resync") == 1
        assert answer(scene.seen(running, at)) == WORDS
    async with scene.client.turn_stream(ended, at=1, cursor=before[2].id) as stream:
        again = await stream.rest()
    assert [event.name for event in again if event.id] == ["resync", "chat_complete"]
    assert answer(again) == WORDS


async def test_postgres_in_mid_turn(scene, conversation, gate):
    """What ends meanwhile is held until it can be committed; what is sent meanwhile is told that nobody knows."""
    await scene.watch()
    running = await scene.sent(WORDS, conversation, trial={"hold": str(gate), "hold_after": 3})
    await scene.follow(running, at=1, deltas=3)
    behind = await scene.sent("behind", conversation)
    await scene.kill("postgres")
    gate.open()
    late = await scene.sent("late", conversation)
    other = await scene.sent("other", f"{conversation}-other", at=1)
    stored = await scene.settled()
    assert {turn["state"] for turn in stored.values()} == {"completed"}
    assert [turn for turn in scene.history.began() if turn != other] == [running, behind, late]
    assert "resync" not in {event.name for event in scene.seen(running, at=1)}


async def test_everything_at_once(scene, conversation, gate):
    await scene.watch()
    running = await scene.sent(WORDS, conversation, trial={"hold": str(gate), "hold_after": 3})
    await scene.follow(running, deltas=3)
    behind = await scene.sent("behind", conversation)
    await scene.kill("valkey", "postgres", "ingress-0", "ingress-1", "proc-0")
    await scene.healed()
    stored = await scene.settled()
    assert (stored[running]["state"], stored[behind]["state"]) == ("interrupted", "completed")
