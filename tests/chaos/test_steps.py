"""At every step of the protocol, in a random order: a reply is lost, or the process dies.

The steps are those of the code: one that is added there without a way to it here fails ``test_no_step_is_forgotten``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.chaos.conftest import Steps, running
from tests.chaos.hands import crowd
from tests.chaos.scene import Scene
from tests.chaos.steps import ELSEWHERE, STEPS
from tests.chaos.ways import ORPHANS, REBUILD, WAYS, WORDS, Traveller, stage
from tests.e2e.conftest import Stack

from kdcube.protocol.ids import new_id

PATIENCE_S = 400.0

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(PATIENCE_S)]

LOST_REPLIES = 150


@pytest.fixture(scope="module")
def stack(tmp_path_factory, steps) -> Iterator[Stack]:
    """With two procs: where one dies, the other goes on."""
    with running(tmp_path_factory.mktemp("steps"), steps, "--proc", "2") as stack:
        yield stack


@pytest.fixture
def travel(enter, steps, tmp_path):
    return Travel(enter, steps, tmp_path)


class Travel:
    """Brings users to steps."""

    def __init__(self, enter, steps: Steps, folder: Path) -> None:
        self.enter = enter
        self.steps = steps
        self.folder = folder
        self.scenes: list[Scene] = []

    def user(self) -> Traveller:
        user = Traveller.of(self.enter(PATIENCE_S), self.steps, self.folder)
        self.scenes.append(user.scene)
        return user

    async def to(self, name: str, action: str) -> None:
        """Has that happen at a step, once."""
        step = self.steps[name]
        step.order(action)
        for _ in range(5):
            user = self.user()
            await user.scene.watch(at=len(self.scenes))
            if stage(name) == REBUILD:
                await user.scene.sent(WORDS, new_id())
                await user.scene.kill("valkey")
            else:
                await WAYS[stage(name)](user)
            acted = await step.wait_acted(action, patience_s=10)
            user.gate.open()
            if acted:
                return
        raise AssertionError(f"nobody came to {name}")

    async def orphan(self) -> None:
        """A turn that was cancelled after its worker had died between its START and its log."""
        start = self.steps["proc.start.after"]
        start.close()
        user = self.user()
        turn = await user.scene.sent(WORDS, new_id())
        pid = await start.pid()
        await user.scene.cancel(turn)
        await user.scene.kill(*(name for name, of in user.scene.stack.pids.items() if of == pid))
        start.open()

    async def settled(self) -> None:
        for scene in self.scenes:
            await scene.settled()


def ordered(choose: random.Random) -> Sequence[str]:
    names = [name for name in STEPS if stage(name) not in ORPHANS]
    return choose.sample(names, len(names))


def test_no_step_is_forgotten():
    assert {stage(name) for name in STEPS} == {*WAYS, *ORPHANS, REBUILD}
    root = Path(__file__).parents[2]
    for name, files in ELSEWHERE.items():
        assert all(name in (root / file).read_text() for file in files), name


async def test_a_reply_is_lost_at_every_step(travel, steps, choose):
    late = [name for name in STEPS if stage(name) in ORPHANS]
    for name in late:
        steps[name].order("drop")
    await travel.orphan()
    names = sorted(ordered(choose), key=lambda name: stage(name) == REBUILD)  # those last: they know no orphans
    for name in names[:-2]:
        await travel.to(name, "drop")
    for name in late:
        assert await steps[name].wait_acted("drop"), name
    for name in names[-2:]:
        await travel.to(name, "drop")
    await travel.settled()


async def test_replies_are_lost_all_the_time(enter, steps, conversation, choose):
    """Each of them somewhere at random, while several hands are at work."""
    scenes = [enter(PATIENCE_S) for _ in range(2)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number)
    async with crowd(scenes, conversation, choose, hands=3) as users:
        for _ in range(LOST_REPLIES):
            step = steps[choose.choice(STEPS)]
            step.order("drop")
            await step.wait_acted("drop", patience_s=choose.uniform(0.0, 0.2))
        await users.accepts(1)
    await users.ends()
    print("lost at:", *sorted(name for name, step in steps.items() if step.acted("drop")))


async def test_a_process_dies_at_every_step(travel, steps, choose):
    """One after the other, faster than their turns can be given to others."""
    for name in ordered(choose):
        await travel.to(name, "crash")
    late = choose.choice([name for name in STEPS if stage(name) in ORPHANS])
    steps[late].order("crash")
    await travel.orphan()
    assert await steps[late].wait_acted("crash"), late
    await travel.settled()


async def test_the_proc_that_rebuilds_dies_in_between(enter, steps, choose):
    """Whoever is the next to rebuild begins anew; what was accepted meanwhile is not lost."""
    scene = enter(PATIENCE_S)
    await scene.watch()
    for name in ("proc.rebuild.after_begin", "proc.rebuild.before_publish"):
        steps[name].order("crash")
    sending = asyncio.gather(*(scene.sent(f"message {n}", f"{new_id()}-{n % 4}", at=n) for n in range(16)))
    await scene.kill("valkey")
    for name in ("proc.rebuild.after_begin", "proc.rebuild.before_publish"):
        assert await steps[name].wait_acted("crash"), name
    await sending
    await scene.settled()
