"""START: once per claim, one at a time in a conversation, never a turn that was cancelled (rule 7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kdcube.postgres.admitting import AdmitTurns
from kdcube.postgres.records import NotStarted, Refusal, Started, StartOutcome
from kdcube.postgres.starting import StartTurns
from kdcube.postgres.turns import Turns
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


def batch(world: World) -> StartTurns:
    return StartTurns(world.database, ("t", "p"), AdmitTurns(world.database, ("t", "p")))


def refusal(outcome: StartOutcome) -> Refusal:
    assert isinstance(outcome, NotStarted)
    return outcome.reason


async def test_start_runs_a_queued_turn(world: World) -> None:
    await world.admit("a")
    started = await world.start("a", claim="k")
    assert isinstance(started, Started)
    assert (started.attempt, started.parent_turn_id, started.conversation_state) == (1, None, {})
    row = await world.row("a")
    assert (row.state, row.attempt, row.claim_id) == (TurnState.RUNNING, 1, "k")
    assert (row.worker_id, row.bundle_version, row.started_ms) == ("w1", "echo@1", started.started_ms)


async def test_a_turn_without_a_row_is_written_from_its_envelope(world: World) -> None:
    assert isinstance(await world.start("a", text="only Valkey knew"), Started)
    assert (await world.row("a")).message == "only Valkey knew"


async def test_a_repeat_under_the_same_claim_gets_the_same_answer(world: World) -> None:
    await world.admit("a")
    first = await world.start("a", claim="k")
    assert await world.start("a", claim="k") == first
    outcomes = await batch(world).commit([world.request("a", claim="k"), world.request("a", claim="k")])
    assert outcomes == [first, first]


async def test_one_of_two_claims_wins(world: World) -> None:
    await world.admit("a")
    outcomes = await batch(world).commit([world.request("a", claim="k1"), world.request("a", claim="k2")])
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NotStarted", "Started"]
    loser = next(outcome for outcome in outcomes if isinstance(outcome, NotStarted))
    assert loser.reason is Refusal.NOT_QUEUED
    assert loser.turn is not None
    assert loser.turn.state is TurnState.RUNNING


async def test_what_has_ended_does_not_start(world: World) -> None:
    await world.ended("a")
    outcome = await world.start("a", claim="other")
    assert refusal(outcome) is Refusal.NOT_QUEUED
    assert refusal(await world.start("a")) is Refusal.NOT_QUEUED  # its own claim neither


async def test_a_cancelled_turn_does_not_start(world: World) -> None:
    await world.admit("a")
    await world.cancel("a")
    assert refusal(await world.start("a")) is Refusal.CANCELLED


@pytest.mark.parametrize("epoch", [0, 6, 8])
async def test_another_epoch_does_not_start(world: World, epoch: int) -> None:
    await world.admit("a")
    assert refusal(await world.start("a", epoch=epoch)) is Refusal.STALE_EPOCH
    assert await world.state("a") is TurnState.QUEUED


async def test_a_busy_conversation_does_not_start_another_turn(world: World) -> None:
    await world.running("a")
    await world.admit("b")
    assert refusal(await world.start("b")) is Refusal.CONVERSATION_BUSY
    await world.finish("a")
    assert isinstance(await world.start("b"), Started)


async def test_a_conversation_waits_for_a_turn_that_ended_and_lingers(world: World) -> None:
    await world.running("a")
    await world.admit("b")
    await world.finish("a", lingers=True, bundle_state={"k": 1})
    assert [row.turn.turn_id for row in await world.turns.lingering()] == ["a"]
    assert refusal(await world.start("b")) is Refusal.CONVERSATION_BUSY
    await world.turns.exited("another")
    assert refusal(await world.start("b")) is Refusal.CONVERSATION_BUSY
    await world.turns.exited("a")
    assert await world.turns.lingering() == []
    started = await world.start("b")
    assert isinstance(started, Started) and started.conversation_state == {"k": 1}


async def test_of_one_conversation_a_batch_starts_the_first(world: World) -> None:
    await world.admit("a")
    await world.admit("b")
    await world.admit("other", "c2")
    outcomes = await batch(world).commit([world.request("b"), world.request("other", "c2"), world.request("a")])
    assert [type(outcome) for outcome in outcomes] == [NotStarted, Started, Started]
    assert refusal(outcomes[0]) is Refusal.CONVERSATION_BUSY


async def test_of_many_workers_that_start_a_conversation_at_once_one_wins(world: World) -> None:
    turn_ids = [f"t{n}" for n in range(12)]
    for turn_id in turn_ids:
        await world.admit(turn_id)
    async with Turns(world.database, "t", "p") as b, Turns(world.database, "t", "p") as c:
        workers = [world.turns, b, c]
        outcomes = await asyncio.gather(
            *(workers[n % 3].start(world.request(turn_id, claim=turn_id)) for n, turn_id in enumerate(turn_ids))
        )
    winners = [outcome for outcome in outcomes if isinstance(outcome, Started)]
    assert len(winners) == 1
    assert {refusal(outcome) for outcome in outcomes if outcome not in winners} == {Refusal.CONVERSATION_BUSY}


async def test_the_index_decides_when_a_start_could_not_see_its_rival(world: World, database_url: str) -> None:
    """A rival START that commits while ours waits for the conversation's row lock: our snapshot is older than it."""
    await world.admit("a")
    await world.admit("b")
    rival = await world.connect(database_url)
    async with rival.transaction():
        await rival.execute("select from conversations for update")
        await rival.execute("update turns set state = 'running', claim_id = 'rival' where turn_id = 'a'")
        ours = asyncio.create_task(world.start("b"))
        await world.until_blocked()
    assert refusal(await ours) is Refusal.CONVERSATION_BUSY
    assert await world.state("b") is TurnState.QUEUED


async def test_a_cancel_that_commits_while_start_waits_is_obeyed(world: World, database_url: str) -> None:
    await world.admit("a")
    rival = await world.connect(database_url)
    async with rival.transaction():
        await rival.execute("update turns set state = 'cancelled', cancel_requested = true where turn_id = 'a'")
        ours = asyncio.create_task(world.start("a"))
        await world.until_blocked()
    assert refusal(await ours) is Refusal.CANCELLED


async def test_another_users_conversation_is_refused_when_there_is_no_row(world: World) -> None:
    await world.admit("a", "c1", "u1")
    outcomes = await batch(world).commit([world.request("x", "c1", "u2"), world.request("a", "c1", "u1")])
    assert outcomes[0] == NotStarted(Refusal.REFUSED, None)
    assert isinstance(outcomes[1], Started)


async def test_a_steer_does_not_start_while_its_turn_lives(world: World) -> None:
    await world.running("a")
    await world.admit("s", steer_of="a")
    assert refusal(await world.start("s")) is Refusal.NOT_QUEUED
    await world.finish("a")
    assert isinstance(await world.start("s"), Started)


async def test_a_steer_that_a_crash_left_behind_starts(world: World) -> None:
    await world.running("a")
    await world.admit("s", steer_of="a")
    await world.database.fetch("update turns set state = 'failed' where turn_id = 'a'")
    assert isinstance(await world.start("s"), Started)


async def test_the_parent_is_the_head_at_start_and_the_head_moves(world: World) -> None:
    await world.ended("a")
    await world.admit("b")
    started = await world.start("b")
    assert isinstance(started, Started)
    assert started.parent_turn_id == "a"
    conversation = await world.conversations.get("u1", "c1")
    assert conversation is not None
    assert conversation.head_turn_id == "b"


async def test_an_edit_has_the_parent_that_it_names_and_a_root_has_none(world: World) -> None:
    for turn_id in ("a", "b", "c"):
        await world.ended(turn_id)
    assert (await world.row("c")).parent_turn_id == "b"
    await world.ended("edit", parent_turn_id="a")
    await world.ended("again", root=True)
    assert (await world.row("edit")).parent_turn_id == "a"
    assert (await world.row("again")).parent_turn_id is None


async def test_a_parent_in_another_conversation_is_not_taken(world: World) -> None:
    await world.ended("secret", "c2", "u2")
    await world.ended("a")
    await world.ended("b", parent_turn_id="secret")
    assert (await world.row("b")).parent_turn_id == "a"


async def test_another_attempt_keeps_its_parent_and_counts(world: World) -> None:
    await world.ended("a")
    await world.running("b", claim="k1")
    assert await world.turns.requeue("b", "k1")
    row = await world.row("b")
    assert (row.state, row.attempt, row.claim_id) == (TurnState.QUEUED, 1, None)
    started = await world.start("b", claim="k2")
    assert isinstance(started, Started)
    assert (started.attempt, started.parent_turn_id) == (2, "a")


async def test_another_attempt_leaves_the_head_to_a_turn_that_ran_in_between(world: World) -> None:
    """A replica of Valkey that lagged took over and gave the conversation away."""
    await world.running("a", claim="k1")
    assert await world.turns.requeue("a", "k1")
    await world.ended("b")
    assert isinstance(await world.start("a", claim="k2"), Started)
    conversation = await world.conversations.get("u1", "c1")
    assert conversation is not None
    assert (conversation.head_turn_id, (await world.row("b")).parent_turn_id) == ("b", "a")


async def test_requeue_needs_the_claim_and_no_cancel(world: World) -> None:
    await world.running("a", claim="k")
    assert not await world.turns.requeue("a", "other")
    await world.cancel("a")
    assert not await world.turns.requeue("a", "k")
    assert await world.state("a") is TurnState.RUNNING
