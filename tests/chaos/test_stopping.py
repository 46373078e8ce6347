"""SIGTERM of a proc with turns at every stage: what has not started goes elsewhere, what runs ends, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from tests.chaos.conftest import running
from tests.chaos.hands import crowd
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

WORDS = "one two three four five"
STOPS = 6


@pytest.fixture(scope="module")
def stack(tmp_path_factory, steps) -> Iterator[Stack]:
    """Two procs, which may drain for three seconds each."""
    variables = {"PROC_CONTAINER_STOP_TIMEOUT_SEC": "4"}
    with running(tmp_path_factory.mktemp("stopping"), steps, "--proc", "2", **variables) as stack:
        yield stack


async def test_a_proc_with_queued_unstarted_and_running_turns(enter, tmp_path, conversation, gate, steps, choose):
    scene = enter()
    await scene.watch()
    long = [
        await scene.sent(WORDS, f"{conversation}-long-{n}", trial={"hold": str(tmp_path / "never"), "hold_after": 3})
        for n in range(2)
    ]
    short = [
        await scene.sent(WORDS, f"{conversation}-short-{n}", trial={"hold": str(gate), "hold_after": 3})
        for n in range(2)
    ]
    for turn in (*long, *short):
        await scene.follow(turn, deltas=3)
    queued = [await scene.sent("queued", f"{conversation}-{name}-0") for name in ("long", "short")]
    names = ["proc.start.before", "proc.start.after", "proc.open.before", "proc.open.after"]
    unstarted: list[str] = []
    for number, name in enumerate(reversed(names)):
        steps[name].close()
        unstarted.append(await scene.sent("unstarted", f"{conversation}-{number}"))
        await steps[name].reached()
    pids = {name: scene.stack.signal(name, signal.SIGTERM) for name in choose.sample(["proc-0", "proc-1"], 2)}
    late = await scene.sent("late", conversation)
    await asyncio.sleep(choose.uniform(0.0, 1.0))
    for name in choose.sample(names, len(names)):
        steps[name].open()
    gate.open()
    for name, pid in pids.items():
        await asyncio.to_thread(scene.stack.wait_gone, name, pid)
    await scene.healed()
    stored = await scene.settled()
    for turn in long:
        assert (stored[turn]["state"], stored[turn]["answer"]) == ("interrupted", "one two three ")
    for turn in (*short, *queued, *unstarted, late):
        assert (stored[turn]["state"], stored[turn]["attempt"]) == ("completed", 1), stored[turn]


async def test_procs_are_stopped_one_after_the_other(enter, conversation, choose):
    """As in a deployment, while hands are at work."""
    scenes = [enter() for _ in range(3)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number)
    async with crowd(scenes, conversation, choose) as users:
        for number in range(STOPS):
            await users.accepts(choose.randint(1, 10))
            name = f"proc-{number % 2}"
            pid = scenes[0].stack.signal(name, signal.SIGTERM)
            await asyncio.to_thread(scenes[0].stack.wait_gone, name, pid)
            await scenes[0].healed()
    await users.ends()
