"""Cancelling, finding, rebuilding, history."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kdcube.postgres.records import CancelResult, Inserted
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


async def test_cancel_ends_what_waits_at_once_with_its_steers(world: World) -> None:
    await world.admit("a")
    await world.admit("s", steer_of="a")
    assert await world.cancel("a") == CancelResult("a", True, TurnState.QUEUED, TurnState.CANCELLED, ("s",))
    row = await world.row("a")
    assert (row.state, row.cancel_requested, row.ended_ms) == (TurnState.CANCELLED, True, world.now_ms)
    assert await world.state("s") is TurnState.CANCELLED


async def test_cancel_of_a_running_turn_is_a_request(world: World) -> None:
    await world.running("a")
    await world.admit("s", steer_of="a")
    assert await world.cancel("a") == CancelResult("a", True, TurnState.RUNNING, TurnState.RUNNING)
    row = await world.row("a")
    assert (row.cancel_requested, row.ended_ms) == (True, None)
    assert await world.state("s") is TurnState.STEERING
    assert await world.cancel("s") == CancelResult("s", True, TurnState.STEERING, TurnState.CANCELLED)


async def test_cancel_of_an_ended_turn_changes_nothing(world: World) -> None:
    await world.ended("a")
    before = await world.row("a")
    assert await world.cancel("a") == CancelResult("a", True, TurnState.COMPLETED, TurnState.COMPLETED)
    assert await world.row("a") == before


async def test_cancel_of_another_users_turn_finds_nothing(world: World) -> None:
    await world.admit("a")
    assert await world.cancel("a", "u2") == CancelResult("a", False)
    assert await world.cancel("nothing") == CancelResult("nothing", False)
    assert await world.state("a") is TurnState.QUEUED


async def test_cancel_and_start_at_once_agree(world: World) -> None:
    for n in range(10):
        await world.admit(f"a{n}", f"c{n}")
    outcomes = await asyncio.gather(
        *(world.start(f"a{n}", f"c{n}") for n in range(10)), *(world.cancel(f"a{n}") for n in range(10))
    )
    for n, cancelled in enumerate(outcomes[10:]):
        row = await world.row(f"a{n}")
        assert isinstance(cancelled, CancelResult)
        assert (row.state, row.cancel_requested) == (cancelled.state_after, True)
        assert row.state in {TurnState.CANCELLED, TurnState.RUNNING}


async def test_a_conversation_is_cancelled_as_a_whole(world: World) -> None:
    await world.ended("done")
    await world.running("a")
    await world.admit("s", steer_of="a")
    await world.admit("b")
    assert await world.turns.cancel_conversation("c1", "u2", 1) == []
    results = await world.turns.cancel_conversation("c1", "u1", world.now_ms)
    assert [(result.turn_id, result.state_after) for result in results] == [
        ("a", TurnState.RUNNING),
        ("s", TurnState.CANCELLED),
        ("b", TurnState.CANCELLED),
    ]


async def test_turns_are_found_by_either_id_and_only_by_their_user(world: World) -> None:
    await world.ended("a", client_turn_id="mine")
    await world.ended("b", client_turn_id="mine")
    assert (await world.turns.find("u1", "a")) == await world.row("a")
    assert (await world.turns.find("u1", "mine")) == await world.row("b")
    assert await world.turns.find("u2", "a") is None
    assert await world.turns.find("u2", "mine") is None
    assert await world.turns.get("a", "u2") is None
    assert await world.turns.get("a", "u1") == await world.row("a")


async def test_an_internal_id_goes_before_a_clients(world: World) -> None:
    await world.ended("a")
    await world.ended("b", client_turn_id="a")
    assert (await world.turns.find("u1", "a")) == await world.row("a")


async def test_the_current_turn_of_a_conversation_runs_or_is_next(world: World) -> None:
    await world.ended("done")
    assert await world.turns.current("u1", "c1") is None
    await world.admit("a")
    await world.admit("b")
    assert await world.turns.current("u1", "c1") == await world.row("a")
    await world.start("b")
    await world.admit("s", steer_of="b")
    assert await world.turns.current("u1", "c1") == await world.row("b")
    assert await world.turns.current("u2", "c1") is None


async def test_a_rebuild_reads_all_unfinished_turns_in_order(world: World) -> None:
    await world.ended("done")
    await world.running("a")
    await world.admit("s", steer_of="a")
    for n in range(5):
        await world.admit(f"q{n}", "c2")
    await world.cancel("q3")
    seen: list[str] = []
    after = -1
    while page := await world.turns.unfinished(after, limit=3):
        assert all(entry.envelope.turn_id == entry.turn.turn_id for entry in page)
        seen += [entry.turn.turn_id for entry in page]
        after = page[-1].turn.admitted_order
    assert seen == ["a", "s", "q0", "q1", "q2", "q4"]
    assert await world.turns.max_order() == 8


async def test_a_page_of_a_rebuild_does_not_part_turns_of_one_order(world: World) -> None:
    for turn_id in ("a", "b", "c"):
        admission = world.admission(turn_id)
        await world.turns.admit(type(admission)(admission.envelope, 5, 1))
    assert len(await world.turns.unfinished(limit=1)) == 3
    assert await world.turns.unfinished(5) == []


async def test_queued_turns_by_age(world: World) -> None:
    await world.admit("old")
    await world.admit("fresh")
    await world.running("running", "c2")
    await world.database.fetch("update turns set queued_ms = queued_ms - 60000 where turn_id in ('old', 'running')")
    assert [entry.turn.turn_id for entry in await world.turns.queued_longer_than(30_000)] == ["old"]
    assert [entry.turn.turn_id for entry in await world.turns.queued_longer_than(0)] == ["old", "fresh"]
    assert len(await world.turns.queued_longer_than(0, limit=1)) == 1


async def test_orphaned_steers_are_settled_when_they_are_old_enough(world: World) -> None:
    for n in range(3):
        await world.running(f"a{n}", f"c{n}")
        assert await world.admit(f"s{n}", f"c{n}", steer_of=f"a{n}") == Inserted(TurnState.STEERING)
    await world.database.fetch("update turns set state = 'cancelled' where turn_id = 'a0'")
    await world.database.fetch("update turns set state = 'completed' where turn_id = 'a1'")
    assert await world.turns.settle_orphan_steers(60_000) == []
    assert sorted(await world.turns.settle_orphan_steers(0)) == ["s0", "s1"]
    assert await world.turns.states(["s0", "s1", "s2"]) == {
        "s0": TurnState.CANCELLED,
        "s1": TurnState.QUEUED,
        "s2": TurnState.STEERING,
    }


async def test_states_leave_out_what_is_unknown(world: World) -> None:
    await world.admit("a")
    assert await world.turns.states(["a", "nothing"]) == {"a": TurnState.QUEUED}
    assert await world.turns.states([]) == {}


async def test_history_is_the_path_to_a_turn(world: World) -> None:
    for turn_id in ("a", "b"):
        await world.ended(turn_id, text=f"say {turn_id}")
    await world.running("c", text="say c")
    await world.admit("s", steer_of="c", text="and more")
    await world.turns.apply_steers("c", "claim", ["s"])
    await world.finish("c", state=TurnState.FAILED, answer="half")
    await world.ended("edit", parent_turn_id="a", text="edited")
    path = await world.turns.history("c")
    assert [(turn.turn_id, turn.text, turn.answer) for turn in path] == [
        ("a", "say a", "answer to a"),
        ("b", "say b", "answer to b"),
        ("c", "say c", "half"),
    ]
    assert (path[2].state, path[2].steers, path[2].ended_ms) == (TurnState.FAILED, ("and more",), world.now_ms)
    assert [turn.turn_id for turn in await world.turns.history("edit")] == ["a", "edit"]
    assert [turn.turn_id for turn in await world.turns.history("c", limit_turns=2)] == ["b", "c"]
    assert await world.turns.history(None) == []


async def test_feedback_belongs_to_the_user_of_the_turn(world: World) -> None:
    await world.ended("a")
    assert await world.turns.feedback("a", "u1", "ok", "nice \0")
    row = await world.row("a")
    assert (row.feedback_reaction, row.feedback_text) == ("ok", "nice �")
    assert not await world.turns.feedback("a", "u2", "bad", None)
    assert await world.turns.feedback("a", "u1", None, None)
    assert (await world.row("a")).feedback_reaction is None
