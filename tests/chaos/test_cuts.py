"""The line between processes and Valkey is cut, or swallows what is sent, for less and for more than a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.chaos.conftest import REPEATABLE, running
from tests.chaos.hands import crowd
from tests.chaos.proxy import Proxy, everybodys, of_process
from tests.conftest import open_valkey
from tests.e2e.client import answer
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

WORDS = "one two three four five"
LEASE_S = 15.0


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Iterator[Proxy]:
    """All that the system and its Valkey say to each other."""
    with open_valkey(tmp_path_factory.mktemp("valkey")) as valkey, Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stack(tmp_path_factory, steps, line) -> Iterator[Stack]:
    arguments = ("--proc", "2", "--redis-url", line.url)
    with running(tmp_path_factory.mktemp("cuts"), steps, *arguments) as stack:
        yield stack


@pytest.fixture(autouse=True)
def whole(line) -> Iterator[None]:
    yield
    line.heal()


@pytest.mark.parametrize("way", [Proxy.cut, Proxy.swallow])
async def test_a_short_cut_of_everybody(scene, conversation, gate, line, choose, way):
    """What runs goes on, and is seen to; what is sent meanwhile is accepted in the end."""
    await scene.watch()
    turns = [
        await scene.sent(WORDS, f"{conversation}-{n}", at=n, trial={"hold": str(gate), "hold_after": 3})
        for n in range(4)
    ]
    for turn in turns:
        await scene.follow(turn, deltas=3)
    way(line, everybodys)
    late = asyncio.create_task(scene.sent("late", conversation))
    await asyncio.sleep(choose.uniform(0.1, LEASE_S / 2))
    line.heal()
    gate.open()
    turns.append(await late)
    stored = await scene.settled()
    assert {(turn["state"], turn["attempt"]) for turn in stored.values()} == {("completed", 1)}
    assert [answer(scene.seen(turn)) for turn in turns[:-1]] == [WORDS] * 4


@pytest.mark.parametrize("way", [Proxy.cut, Proxy.swallow])
async def test_a_proc_is_cut_off_for_longer_than_a_lease(enter, conversation, gate, line, choose, way):
    """It gives its turns up before another may take them; then it works on as if nothing had been."""
    scene, others = enter(), [enter() for _ in range(2)]
    await scene.watch()
    name = f"proc-{choose.randrange(2)}"
    victims, repeated = list[str](), list[str]()
    for n in range(6):  # some of them run there
        bundle = {"bundle_id": REPEATABLE} if n % 2 else {}
        turn = await scene.sent(
            WORDS, f"{conversation}-{n}", at=n, trial={"hold": str(gate), "hold_after": 3}, **bundle
        )
        await scene.follow(turn, deltas=3)
        (repeated if bundle else victims).append(turn)
    scene.history.repeatable.update(repeated)
    behind = await scene.sent("behind", f"{conversation}-0")
    async with crowd(others, conversation, choose, crashes=0.0) as users:
        way(line, of_process(scene.stack.pids[name]))
        await asyncio.sleep(LEASE_S + choose.uniform(2.0, 6.0))
        line.heal()
        gate.open()
        await users.accepts(5)
    stored = await scene.settled()
    await users.ends()
    assert {stored[turn]["state"] for turn in repeated} == {"completed"}
    for turn in victims:
        if stored[turn]["state"] == "interrupted":
            assert stored[turn]["answer"] == "one two three "
    assert stored[behind]["state"] == "completed"


async def test_everybody_is_cut_off_for_longer_than_a_lease(scene, conversation, gate, line, choose):
    """What ran is interrupted and kept, what waited runs when the line is back."""
    await scene.watch()
    turns = [
        await scene.sent(WORDS, f"{conversation}-{n}", at=n, trial={"hold": str(gate), "hold_after": 3})
        for n in range(4)
    ]
    for turn in turns:
        await scene.follow(turn, deltas=3)
    behind = [await scene.sent("behind", f"{conversation}-{n}") for n in range(4)]
    choose.choice([line.cut, line.swallow])()
    await asyncio.sleep(LEASE_S + choose.uniform(2.0, 4.0))
    line.heal()
    gate.open()
    stored = await scene.settled()
    assert {(stored[turn]["state"], stored[turn]["answer"]) for turn in turns} == {("interrupted", "one two three ")}
    assert {stored[turn]["state"] for turn in behind} == {"completed"}
