"""Endings: one per turn, under the current claim; steers go on or go with it (rules 4 and 10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kdcube.postgres.finishing import FinishTurns, encode_ending
from kdcube.postgres.records import Ending, Finished, NotFinished, Started
from kdcube.postgres.turns import Turns
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


async def test_a_finished_turn_is_complete(world: World) -> None:
    await world.running("a")
    services = [
        {"type": "turn.usage", "data": {"model": "m", "input_tokens": 3}},
        {"type": "turn.citations", "data": {"items": [{"n": 1}]}},
    ]
    ending = Ending(
        turn_id="a",
        claim_id="claim",
        state=TurnState.FAILED,
        ended_ms=5,
        text_by_marker={"answer": "so far", "thinking": "hm"},
        steps=[{"step": "s", "status": "completed"}],
        services=services,
        error={"code": "boom"},
        bundle_state={"k": 1},
    )
    assert await world.turns.finish(ending) == Finished([], [])
    row = await world.row("a")
    assert (row.state, row.ended_ms, row.answer, row.text_by_marker) == ("failed", 5, "so far", ending.text_by_marker)
    assert (row.steps, row.services, row.error, row.bundle_state) == (
        ending.steps,
        services,
        {"code": "boom"},
        {"k": 1},
    )
    assert row.usage == [{"model": "m", "input_tokens": 3}]


async def test_a_repeat_is_answered_again_and_another_ending_is_not(world: World) -> None:
    await world.running("a")
    assert await world.finish("a") == Finished([], [])
    assert await world.finish("a") == Finished([], [])
    stands = await world.finish("a", state=TurnState.INTERRUPTED)
    assert stands == NotFinished(await world.row("a"))


async def test_an_ending_says_what_ran_when_it_is_not_what_start_was_told(world: World) -> None:
    await world.running("a")
    await world.running("b", "c2")
    await world.finish("a", bundle_version="echo@2")
    await world.finish("b")
    assert [(await world.row(turn)).bundle_version for turn in ("a", "b")] == ["echo@2", "echo@1"]


async def test_a_claim_that_is_not_current_changes_nothing(world: World) -> None:
    await world.running("a", claim="k1")
    assert await world.finish("a", claim="k2") == NotFinished(await world.row("a"))
    await world.turns.requeue("a", "k1")
    assert isinstance(await world.finish("a", claim="k1"), NotFinished)
    await world.start("a", claim="k2")
    assert isinstance(await world.finish("a", claim="k1"), NotFinished)
    assert await world.finish("a", claim="k2") == Finished([], [])


async def test_an_unknown_turn_and_one_that_never_started(world: World) -> None:
    assert await world.finish("nothing") == NotFinished(None)
    await world.admit("a")
    assert isinstance(await world.finish("a"), NotFinished)


async def test_worker_and_reaper_at_once_one_wins(world: World) -> None:
    await world.running("a")
    async with Turns(world.database, "t", "p") as reaper:
        folded = Ending(turn_id="a", claim_id="claim", state=TurnState.INTERRUPTED, ended_ms=1)
        outcomes = await asyncio.gather(world.finish("a"), reaper.finish(folded))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Finished", "NotFinished"]
    assert (await world.row("a")).state in {TurnState.COMPLETED, TurnState.INTERRUPTED}


async def test_two_endings_of_one_turn_in_a_batch(world: World) -> None:
    await world.running("a")
    await world.running("b", "c2")
    endings = [
        encode_ending(Ending(turn_id=turn_id, claim_id="claim", state=state, ended_ms=1))
        for turn_id, state in (("a", TurnState.COMPLETED), ("b", TurnState.COMPLETED), ("a", TurnState.INTERRUPTED))
    ]
    outcomes = await FinishTurns(world.database, ("t", "p")).commit(endings)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Finished", "Finished", "NotFinished"]
    assert outcomes[1] == Finished([], [])


async def test_steers_that_were_not_applied_become_turns_in_order(world: World) -> None:
    await world.running("a")
    for steer in ("s3", "s1", "s2"):
        await world.admit(steer, steer_of="a")
    assert await world.turns.apply_steers("a", "claim", ["s1", "unknown"]) == {"s1"}
    assert await world.finish("a") == Finished(["s3", "s2"], [])
    states = await world.turns.states(["s1", "s2", "s3"])
    assert states == {"s1": TurnState.APPLIED, "s2": TurnState.QUEUED, "s3": TurnState.QUEUED}
    assert await world.finish("a") == Finished(["s3", "s2"], [])  # the reply was lost


async def test_a_cancelled_turn_takes_its_steers_along(world: World) -> None:
    await world.running("a")
    await world.admit("s", steer_of="a")
    await world.cancel("a")
    assert await world.finish("a", state=TurnState.CANCELLED) == Finished([], ["s"])
    assert await world.state("s") is TurnState.CANCELLED


async def test_a_steer_that_commits_while_the_ending_waits_is_not_forgotten(world: World, database_url: str) -> None:
    """The ending's snapshot is older than the steer; the count on the turn's row makes it look again."""
    await world.running("a")
    rival = await world.connect(database_url)
    async with rival.transaction():
        await rival.execute("update turns set steers = steers + 1 where turn_id = 'a'")
        ending = asyncio.create_task(world.finish("a"))
        await world.until_blocked()
        await rival.execute(
            """insert into turns (tenant, project, turn_id, client_turn_id, conversation_id, user_id, user_type,
                 session_id, request_id, bundle_id, content_hash, envelope, state, admitted_order, accepted_ms,
                 steer_of, message)
               select tenant, project, 's', 's', conversation_id, user_id, user_type,
                 session_id, request_id, bundle_id, content_hash, envelope, 'steering', 9, accepted_ms, 'a', message
               from turns where turn_id = 'a'"""
        )
    assert await ending == Finished(["s"], [])
    assert await world.state("s") is TurnState.QUEUED


async def test_steers_and_endings_at_once_leave_no_steer_behind(world: World) -> None:
    async with Turns(world.database, "t", "p") as ingress:
        for n in range(20):
            await world.running(f"a{n}", f"c{n}")
        await asyncio.gather(
            *(world.finish(f"a{n}") for n in range(20)),
            *(ingress.admit(world.admission(f"s{n}", f"c{n}", steer_of=f"a{n}")) for n in range(20)),
        )
    states = await world.turns.states([f"s{n}" for n in range(20)])
    assert set(states.values()) == {TurnState.QUEUED}


async def test_steers_are_applied_under_the_current_claim_only(world: World) -> None:
    await world.running("a", claim="k1")
    await world.admit("s", steer_of="a")
    assert await world.turns.apply_steers("a", "k2", ["s"]) == set()
    await world.turns.requeue("a", "k1")
    assert await world.turns.apply_steers("a", "k1", ["s"]) == set()
    await world.start("a", claim="k2")
    assert await world.turns.apply_steers("a", "k2", ["s"]) == {"s"}
    assert await world.turns.apply_steers("a", "k2", ["s"]) == {"s"}  # a lost reply is asked for again
    await world.finish("a", claim="k2")
    assert await world.turns.apply_steers("a", "k2", ["s"]) == set()


async def test_steers_that_the_bundle_never_took_are_returned_and_become_turns(world: World) -> None:
    await world.running("a")
    for steer in ("s1", "s2"):
        await world.admit(steer, steer_of="a")
    await world.turns.apply_steers("a", "claim", ["s1", "s2"])
    await world.turns.return_steers("a", "other", ["s1"])
    assert await world.state("s1") is TurnState.APPLIED
    await world.turns.return_steers("a", "claim", ["s2"])
    row = await world.row("s2")
    assert (row.state, row.ended_ms, row.parent_turn_id) == (TurnState.STEERING, None, None)
    assert await world.finish("a") == Finished(["s2"], [])
    await world.turns.return_steers("a", "claim", ["s1"])
    assert await world.state("s1") is TurnState.APPLIED


async def test_the_state_of_a_bundle_commits_with_the_end_and_reaches_the_next_turn(world: World) -> None:
    await world.running("a")
    await world.finish("a", bundle_state={"seen": 1, "name": "x"})
    await world.running("b")
    await world.finish("b", claim="wrong", bundle_state={"seen": 99})
    await world.finish("b", bundle_state={"seen": 2})
    await world.ended("c")
    started = await world.start("d")
    assert isinstance(started, Started)
    assert started.conversation_state == {"seen": 2, "name": "x"}


async def test_content_that_postgresql_cannot_hold_ends_the_turn_all_the_same(world: World) -> None:
    await world.running("a")
    step = {"step": "s", "title": "nul \0", "deep": [{"k\0": "\0"}]}
    assert await world.finish("a", answer="x\0y", steps=[step]) == Finished([], [])
    row = await world.row("a")
    assert row.answer == "x�y"
    assert row.steps == [{"step": "s", "title": "nul �", "deep": [{"k�": "�"}]}]


async def test_an_ending_that_cannot_be_encoded_harms_its_caller_only(world: World) -> None:
    await world.running("a")
    await world.running("b", "c2")
    outcomes = await asyncio.gather(
        world.finish("a", steps=[{"step": object()}]), world.finish("b"), return_exceptions=True
    )
    assert isinstance(outcomes[0], TypeError)
    assert outcomes[1] == Finished([], [])
    with pytest.raises(ValueError, match="terminal"):
        await world.finish("a", state=TurnState.QUEUED)


async def test_a_queued_turn_fails_and_its_steers_go_on(world: World) -> None:
    await world.admit("a")
    await world.admit("s", steer_of="a")
    assert await world.turns.fail_queued("a", {"code": "queue_timeout"}, 5)
    row = await world.row("a")
    assert (row.state, row.error, row.ended_ms, row.attempt) == (TurnState.FAILED, {"code": "queue_timeout"}, 5, 0)
    assert await world.state("s") is TurnState.QUEUED
    assert not await world.turns.fail_queued("a", {}, 6)
    await world.running("b")
    assert not await world.turns.fail_queued("b", {}, 6)
