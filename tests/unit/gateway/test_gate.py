"""The gate: so much at once, fairly, with a bounded queue, and a limit that changes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from kdcube.gateway.errors import Unavailable
from kdcube.gateway.gate import Gate

pytestmark = pytest.mark.anyio


class Work:
    """Goes through a gate and stays inside until it is told to leave."""

    def __init__(self, gate: Gate, user: str) -> None:
        self.user = user
        self.inside = asyncio.Event()
        self._done = asyncio.Event()
        self.task = asyncio.create_task(self._run(gate))

    async def _run(self, gate: Gate) -> None:
        async with gate.entered(self.user):
            self.inside.set()
            await self._done.wait()
        self.inside.clear()

    async def leave(self) -> None:
        self._done.set()
        await self.task

    @property
    def refused(self) -> bool:
        return self.task.done() and isinstance(self.task.exception(), Unavailable)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def begin(gate: Gate, *users: str) -> list[Work]:
    works = [Work(gate, user) for user in users]
    await settle()
    return works


async def test_so_much_at_once_and_so_much_waits() -> None:
    gate = Gate(2)
    works = await begin(gate, *"aaaaaa")
    assert [work.inside.is_set() for work in works] == [True, True] + [False] * 4
    assert (gate.inside, gate.waiting) == (2, 2)
    assert [work.refused for work in works] == [False] * 4 + [True] * 2
    error = works[-1].task.exception()
    assert isinstance(error, Unavailable) and error.retry_after_s == 1 and error.error == "too_many_operations"
    for work in works[:4]:
        await work.leave()
    assert (gate.inside, gate.waiting) == (0, 0)


async def test_the_next_is_of_the_user_with_the_least_inside() -> None:
    gate = Gate(3)
    greedy = await begin(gate, *"aaaaa")
    [modest] = await begin(gate, "b")
    await greedy[0].leave()
    await settle()
    assert modest.inside.is_set() and not greedy[3].inside.is_set()
    for work in (greedy[1], greedy[2], modest, greedy[3], greedy[4]):
        await work.leave()


async def test_who_has_the_most_waiting_gives_way() -> None:
    gate = Gate(3)
    greedy = await begin(gate, *"aaaaaa")
    [modest] = await begin(gate, "b")
    assert greedy[5].refused and not modest.refused and gate.waiting == 3
    [more] = await begin(gate, "a")
    assert more.refused
    for work in [*greedy[:3], modest, *greedy[3:5]]:
        await work.leave()


async def test_nobody_waits_for_ever() -> None:
    gate = Gate(1, wait_s=0)
    first, second = await begin(gate, *"ab")
    await asyncio.wait({second.task})
    assert second.refused and gate.waiting == 0
    await first.leave()
    assert gate.inside == 0


async def test_the_limit_changes_while_work_is_inside() -> None:
    gate = Gate(1)
    works = await begin(gate, *"ab")
    gate.limit = 3
    await settle()
    assert gate.inside == 2
    gate.limit = 1
    works += await begin(gate, "c")
    assert gate.inside == 2  # what is inside stays
    await works[0].leave()
    await settle()
    assert not works[2].inside.is_set()
    await works[1].leave()
    await settle()
    assert works[2].inside.is_set()
    await works[2].leave()


@pytest.mark.parametrize("seed", range(20))
async def test_places_are_neither_lost_nor_doubled_whoever_leaves_when(seed: int) -> None:
    choose = random.Random(seed)
    gate = Gate(3)
    works: list[Work] = []
    for _ in range(150):
        match choose.randrange(4):
            case 0 | 1:
                works.append(Work(gate, choose.choice("abc")))
            case 2 if works:
                choose.choice(works).task.cancel()
            case _ if works:
                choose.choice(works)._done.set()
        if choose.randrange(2):
            await asyncio.sleep(0)
        assert gate.inside <= gate.limit and gate.waiting <= gate.limit
    for work in works:
        work._done.set()
    await asyncio.wait({work.task for work in works})
    assert (gate.inside, gate.waiting) == (0, 0) and gate._inside == Counter()
