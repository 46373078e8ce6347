"""Admission: a row is written once, for the owner of its conversation, and never changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kdcube.postgres.admitting import AdmitTurns, encode_admission
from kdcube.postgres.database import RowRejected
from kdcube.postgres.records import Admission, Admitted, ConversationRefused, Existing, Inserted
from kdcube.postgres.turns import Turns
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


async def commit(world: World, *admissions: Admission) -> list[Admitted]:
    """Commits what a test puts together, as one batch."""
    admit = AdmitTurns(world.database, ("t", "p"))
    return await admit.commit([encode_admission(admission) for admission in admissions])


async def test_the_row_holds_what_was_accepted(world: World) -> None:
    admission = world.admission("a", "c1", "u1", "  Why is\n the sky blue? ", roles=("r",), payload={"k": [1]})
    assert await world.turns.admit(admission) == Inserted()
    row = await world.row("a")
    assert (row.state, row.attempt, row.claim_id, row.user_id) == (TurnState.QUEUED, 0, None, "u1")
    assert (row.admitted_order, row.accepted_ms) == (admission.order, admission.accepted_ms)
    assert (row.message, row.answer, row.steps, row.error) == ("  Why is\n the sky blue? ", None, [], None)
    assert await world.turns.envelope("a") == admission.envelope
    conversation = await world.conversations.get("u1", "c1")
    assert conversation is not None
    assert (conversation.title, conversation.head_turn_id) == ("Why is", None)


async def test_a_row_that_exists_is_told_and_not_changed(world: World) -> None:
    await world.running("a", text="first")
    before = await world.row("a")
    again = await world.admit("a", text="second")
    assert again == Existing("a", TurnState.RUNNING, before.content_hash, "c1", "claim", before.admitted_order)
    assert await world.row("a") == before
    assert await world.admit("a", "c2") == again
    assert await world.conversations.get("u1", "c2") is None  # a repeat opens no conversation


async def test_the_same_turn_twice_at_once_is_inserted_once(world: World) -> None:
    async with Turns(world.database, "t", "p") as other_ingress:
        first, second = world.admission("a"), world.admission("a")
        outcomes = await asyncio.gather(world.turns.admit(first), other_ingress.admit(second))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Existing", "Inserted"]


async def test_the_same_turn_twice_in_one_batch(world: World) -> None:
    outcomes = await commit(world, world.admission("a"), world.admission("b"), world.admission("a"))
    assert [type(outcome) for outcome in outcomes] == [Inserted, Inserted, Existing]


async def test_many_turns_of_one_conversation_in_one_batch(world: World) -> None:
    outcomes = await commit(world, *(world.admission(f"t{n}") for n in range(10)))
    assert outcomes == [Inserted()] * 10
    conversation = await world.conversations.get("u1", "c1")
    assert conversation is not None
    assert (conversation.started_ms, conversation.last_activity_ms) == (world.now_ms + 1000, world.now_ms + 10_000)
    await world.admit("later")
    conversation = await world.conversations.get("u1", "c1")
    assert conversation is not None
    assert conversation.last_activity_ms == world.now_ms + 11_000


async def test_another_users_conversation_is_refused(world: World) -> None:
    await world.admit("a", "c1", "u1")
    assert await world.admit("b", "c1", "u2") == ConversationRefused()
    assert await world.turns.get("b") is None


async def test_a_refused_turn_in_a_batch_harms_no_other(world: World) -> None:
    await world.admit("old", "c1", "u1")
    outcomes = await commit(
        world, world.admission("x", "c1", "u2"), world.admission("a", "c1", "u1"), world.admission("b", "c2", "u2")
    )
    assert outcomes == [ConversationRefused(), Inserted(), Inserted()]


async def test_two_users_who_open_one_conversation_at_once(world: World) -> None:
    outcomes = await commit(world, world.admission("a", "new", "u1"), world.admission("b", "new", "u2"))
    assert outcomes == [Inserted(), ConversationRefused()]


async def test_a_deleted_conversation_is_refused(world: World) -> None:
    await world.ended("a")
    await world.conversations.delete("u1", "c1", world.now_ms)
    assert await world.admit("b") == ConversationRefused()
    assert isinstance(await world.admit("a"), Existing)


async def test_a_bad_item_harms_no_other(world: World) -> None:
    """An order that no bigint holds: PostgreSQL (or the driver) refuses the whole batch."""
    bad = world.admission("bad")
    bad = type(bad)(bad.envelope, 2**70, bad.accepted_ms)

    async def admit(admission: object) -> Admitted | RowRejected:
        try:
            return await world.turns.admit(admission)  # type: ignore[arg-type]
        except RowRejected as error:
            return error

    items = [world.admission("a"), bad, world.admission("b"), world.admission("c")]
    outcomes = await asyncio.gather(*map(admit, items))
    assert isinstance(outcomes[1], RowRejected)
    assert [outcomes[0], *outcomes[2:]] == [Inserted()] * 3
    assert await world.turns.states(["a", "b", "c", "bad"]) == dict.fromkeys("abc", TurnState.QUEUED)


async def test_text_that_cannot_be_encoded_harms_its_caller_only(world: World) -> None:
    outcomes = await asyncio.gather(world.admit("bad", text="\ud800"), world.admit("a"), return_exceptions=True)
    assert isinstance(outcomes[0], UnicodeEncodeError)
    assert outcomes[1] == Inserted()


async def test_text_that_postgresql_cannot_hold_is_accepted_and_runs_unchanged(world: World) -> None:
    admission = world.admission("a", text="nul \0 here")
    assert await world.turns.admit(admission) == Inserted()
    assert (await world.row("a")).message == "nul � here"
    assert await world.turns.envelope("a") == admission.envelope


async def test_tenants_and_projects_do_not_meet(world: World) -> None:
    async with Turns(world.database, "t", "other") as other:
        await world.admit("a")
        assert await other.get("a") is None
        assert await other.admit(world.admission("a", "c1", "u2")) == Inserted()
        assert await other.unfinished(after_order=10) == []
    assert (await world.row("a")).user_id == "u1"


async def test_a_steer_of_a_running_turn_is_steering(world: World) -> None:
    await world.running("a")
    assert await world.admit("s", steer_of="a") == Inserted(TurnState.STEERING)
    assert (await world.row("s")).steer_of == "a"


async def test_a_steer_that_comes_too_late_is_a_turn(world: World) -> None:
    await world.ended("a")
    assert await world.admit("s", steer_of="a") == Inserted(TurnState.QUEUED)
    assert await world.admit("t", steer_of="nothing") == Inserted(TurnState.QUEUED)


async def test_a_steer_of_a_turn_that_was_just_cancelled_is_cancelled(world: World) -> None:
    await world.admit("a")
    await world.cancel("a")
    assert await world.admit("s", steer_of="a") == Inserted(TurnState.CANCELLED)


async def test_a_turn_and_its_steer_in_one_batch(world: World) -> None:
    outcomes = await commit(world, world.admission("s", steer_of="a"), world.admission("a"))
    assert outcomes == [Inserted(TurnState.STEERING), Inserted()]


async def test_an_interrupt_asks_the_running_turn_to_stop(world: World) -> None:
    await world.running("a")
    assert await world.admit("b", interrupts="a") == Inserted()
    row = await world.row("a")
    assert (row.state, row.cancel_requested) == (TurnState.RUNNING, True)


async def test_an_interrupt_cancels_a_turn_that_has_not_started_even_in_one_batch(world: World) -> None:
    interrupting = world.admission("b", interrupts="a")
    assert await commit(world, interrupting, world.admission("a")) == [Inserted(interrupted=True), Inserted()]
    assert await world.turns.states(["a", "b"]) == {"a": TurnState.CANCELLED, "b": TurnState.QUEUED}
    assert isinstance(await world.turns.admit(interrupting), Existing)


async def test_of_several_interrupts_one_has_ended_the_turn(world: World) -> None:
    await world.admit("a")
    first, second = await commit(world, world.admission("b", interrupts="a"), world.admission("c", interrupts="a"))
    assert (first, second) == (Inserted(interrupted=True), Inserted())
    assert await world.admit("d", interrupts="a") == Inserted()


async def test_an_interrupt_reaches_no_other_conversation_and_no_repeat_interrupts(world: World) -> None:
    await world.running("a", "c1")
    await world.admit("b", "c2", interrupts="a")
    assert not (await world.row("a")).cancel_requested
    await world.admit("c", "c1")
    await world.admit("c", "c1", interrupts="a")
    assert not (await world.row("a")).cancel_requested


async def test_concurrent_batches_over_the_same_conversations_do_not_lose_a_turn(world: World) -> None:
    forward = [world.admission(f"f{n}", f"c{n}") for n in range(40)]
    backward = [world.admission(f"b{n}", f"c{n}") for n in reversed(range(40))]
    results = await asyncio.gather(commit(world, *forward), commit(world, *backward))
    assert results == [[Inserted()] * 40] * 2
