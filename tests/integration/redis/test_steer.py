"""Steers: delivered, seen, and then applied, bounced to the next turn, or discarded; each with its receipts."""

from __future__ import annotations

import dataclasses

import pytest
from tests.integration.redis.partition import Partition, a_message

from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import Policy, TurnState
from kdcube.redis.admission import Delivered, Duplicate
from kdcube.redis.epoch import Unfinished
from kdcube.redis.queue import Fenced
from kdcube.redis.steer import TakenSteer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def claim(partition: Partition):
    """A running turn of conversation ``c``."""
    return await partition.running(await partition.admitted(conversation="c"))


async def steered(partition: Partition, count: int = 1) -> list[TakenSteer]:
    """Steers of conversation ``c``, as their worker gets them."""
    found: list[TakenSteer] = []
    for number in range(count):
        message = a_message(conversation="c", policy=Policy.STEER, text=f"steer {number}")
        outcome = await partition.admit(message)
        assert isinstance(outcome, Delivered)
        found.append(TakenSteer(message, outcome.order, outcome.accepted_ms))
    return found


async def take(partition: Partition, claim):
    return await partition.steers.take(claim.envelope, claim.claim_id, epoch=partition.epoch)


async def apply(partition: Partition, claim, *steer_ids: str) -> bool:
    return await partition.steers.applied(claim.envelope, claim.claim_id, steer_ids, epoch=partition.epoch)


async def test_a_steer_is_told_to_its_worker_and_the_user(partition, claim):
    async with partition.listening(partition.keys.worker_channel("worker")) as heard:
        [steer] = await steered(partition)
        assert await heard.get() == f"steer {claim.envelope.turn_id} {claim.claim_id}".encode()
    accepted, receipt = (await partition.feed_events())[-2:]
    assert (accepted["type"], accepted["turn_id"]) == ("turn.accepted", steer.envelope.turn_id)
    assert receipt | {"ts": 0} == {
        "type": "steer.receipt",
        "ts": 0,
        "turn_id": steer.envelope.turn_id,
        "client_turn_id": steer.envelope.client_turn_id,
        "conversation_id": "c",
        "steered_turn_id": claim.envelope.turn_id,
        "state": "accepted",
    }


async def test_steers_are_given_in_order_until_they_are_applied_and_seen_once(partition, claim):
    steers = await steered(partition, 3)
    assert await take(partition, claim) == steers
    async with partition.unchanged():
        assert await take(partition, claim) == steers  # the reply before may be lost
    await apply(partition, claim, steers[1].envelope.turn_id)
    more = await steered(partition)
    assert await take(partition, claim) == [steers[0], steers[2], *more]
    assert await partition.receipts(steers[0].envelope.turn_id) == ["accepted", "seen"]


async def test_an_applied_steer_is_done(partition, claim):
    one, two = await steered(partition, 2)
    await take(partition, claim)
    assert await apply(partition, claim, two.envelope.turn_id)
    async with partition.unchanged():
        assert await apply(partition, claim, two.envelope.turn_id)
        assert await apply(partition, claim, new_id())
        assert await apply(partition, claim, claim.envelope.turn_id)  # no steer of its own
        again = await partition.admit(two.envelope)
        assert isinstance(again, Duplicate) and again.state is TurnState.APPLIED
    assert await partition.receipts(two.envelope.turn_id) == ["accepted", "seen", "applied"]
    assert two.envelope.turn_id not in (await partition.feeds.read("ann", None)).live
    await partition.finish(claim)
    assert await partition.run_all() == [one.envelope.turn_id]
    await partition.check_empty()


async def test_what_is_not_applied_becomes_the_next_turn_with_the_same_ids(partition, claim):
    before = await partition.admitted(conversation="c")
    seen, unseen = await steered(partition, 2)
    after = await partition.admitted(conversation="c")
    await take(partition, claim)
    await partition.finish(claim)
    assert await partition.receipts(seen.envelope.turn_id) == ["accepted", "seen", "bounced"]
    ran = await partition.run_all()
    assert ran == [message.turn_id for message in (before, seen.envelope, unseen.envelope, after)]
    await partition.check_empty()


async def test_an_interrupt_goes_before_steers_that_bounce(partition, claim):
    [steer] = await steered(partition)
    hasty = await partition.admitted(conversation="c", policy=Policy.INTERRUPT)
    await partition.finish(claim, TurnState.CANCELLED)
    assert await partition.run_all() == [hasty.turn_id, steer.envelope.turn_id]


async def test_a_cancel_discards_what_postgresql_says(partition, claim):
    one, two = await steered(partition, 2)
    await partition.finish(claim, TurnState.CANCELLED, discarded=[one.envelope.turn_id, new_id()])
    assert await partition.receipts(one.envelope.turn_id) == ["accepted", "cancelled"]
    assert await partition.receipts(two.envelope.turn_id) == ["accepted", "bounced"]
    again = await partition.admit(one.envelope)
    assert isinstance(again, Duplicate) and again.state is TurnState.CANCELLED
    assert await partition.run_all() == [two.envelope.turn_id]
    await partition.check_empty()


async def test_a_steer_is_given_to_each_claim_of_its_turn(partition, claim):
    """The turn was handed back: its next worker has seen nothing yet, the user has."""
    [steer] = await steered(partition)
    await take(partition, claim)
    await partition.queue.release(claim.envelope.turn_id, claim.claim_id, epoch=1)
    async with partition.unchanged():
        assert await take(partition, claim) == Fenced()
        assert not await apply(partition, claim, steer.envelope.turn_id)
    again = await partition.running(claim.envelope)
    assert await take(partition, again) == [steer]
    assert await partition.receipts(steer.envelope.turn_id) == ["accepted", "seen"]


async def test_a_turn_that_is_cancelled_in_the_queue_lets_its_steers_go_on(partition, claim):
    [steer] = await steered(partition)
    await partition.queue.release(claim.envelope.turn_id, claim.claim_id, epoch=1)
    await partition.finish(claim.envelope, TurnState.CANCELLED)
    assert await partition.receipts(steer.envelope.turn_id) == ["accepted", "bounced"]
    assert await partition.run_all() == [steer.envelope.turn_id]
    await partition.check_empty()


async def test_a_steer_may_be_cancelled_by_itself(partition, claim):
    [steer] = await steered(partition)
    assert await partition.finish(steer.envelope, TurnState.CANCELLED)
    assert await take(partition, claim) == []
    await partition.finish(claim)
    await partition.check_empty()


async def test_a_turn_that_ended_takes_no_steers_while_its_lingers(partition, claim):
    [steer] = await steered(partition)
    await partition.finish(claim, TurnState.CANCELLED, lingers=True)
    late = await partition.admitted(conversation="c", policy=Policy.STEER)
    async with partition.unchanged():
        assert await take(partition, claim) == Fenced()
        assert not await apply(partition, claim, late.turn_id)
    await partition.queue.exited(claim.envelope.turn_id, claim.claim_id, epoch=1)
    assert await partition.run_all() == [steer.envelope.turn_id, late.turn_id]


async def test_steers_of_two_conversations_stay_apart(partition, claim):
    other = await partition.running(await partition.admitted(conversation="c2"))
    steers = await steered(partition, 2)
    assert await take(partition, other) == []
    async with partition.unchanged():
        assert await apply(partition, other, steers[0].envelope.turn_id)  # not a steer of that turn
    assert await take(partition, claim) == steers


async def test_a_steer_that_was_applied_in_vain_runs_as_a_turn(partition, claim):
    """Its bundle ended before it had it: PostgreSQL took the steer back, and the reconciler puts it into the queue."""
    [steer] = await steered(partition)
    await take(partition, claim)
    await apply(partition, claim, steer.envelope.turn_id)
    await partition.finish(claim)
    row = Unfinished(steer.envelope, steer.order, steer.accepted_ms, TurnState.QUEUED)
    async with partition.unchanged():
        stale = dataclasses.replace(row, state=TurnState.STEERING, steers=claim.envelope.turn_id)
        assert not await partition.state.restore(stale, epoch=1)
    assert await partition.state.restore(row, epoch=1)
    assert await partition.run_all() == [steer.envelope.turn_id]
    async with partition.unchanged():
        assert not await partition.state.restore(row, epoch=1)  # now it has ended
    await partition.check_empty()
