"""Epochs: the working state is emptied, rebuilt from PostgreSQL and opened again; everybody hears of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.redis.partition import Partition, a_message, a_partition

from kdcube.protocol.errors import ConfigurationError, EpochMismatch
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import Policy, TurnEnvelope, TurnState
from kdcube.redis.admission import Admitted, Duplicate
from kdcube.redis.epoch import EpochWatch, Unfinished, WorkingState
from kdcube.redis.eventlog import Appended
from kdcube.redis.keys import Keys
from kdcube.redis.queue import ExpiredLease, Opened
from kdcube.redis.steer import TakenSteer
from kdcube.redis.subscriber import open_subscriber

pytestmark = pytest.mark.anyio


def queued(message: TurnEnvelope, order: int, **changes) -> Unfinished:
    return Unfinished(message, order, 1_700_000_000_000 + order, **{"state": TurnState.QUEUED} | changes)


def running(message: TurnEnvelope, order: int, claim_id: str = "fence", **changes) -> Unfinished:
    claimed = {"state": TurnState.RUNNING, "claim_id": claim_id, "worker_id": "worker"}
    return queued(message, order, **claimed | changes)


async def rebuild(partition: Partition, *turns: Unfinished, lost: bool = True) -> None:
    """Puts ``turns`` into an empty Valkey (or into one that only forgot its working state) under the next epoch."""
    if lost:
        await partition.connection.call("FLUSHALL")
        await partition.workers.beat("worker", slots=100, info={})
    partition.epoch += 1
    assert await partition.state.begin(partition.epoch)
    for turn in turns:
        assert await partition.state.restore(turn, epoch=partition.epoch)
    assert await partition.state.publish(partition.epoch, max_order=50, run_id="run")
    await partition.check()


# --- begin and publish ------------------------------------------------------------------------------------------------


async def test_a_rebuild_closes_the_working_state_until_it_is_published(partition):
    message = await partition.admitted()
    await partition.running(message)
    await partition.admitted("ann", message.conversation_id)
    assert await partition.state.begin(2)
    assert await partition.state.epoch() is None
    for epoch in (1, 2):
        with pytest.raises(EpochMismatch):
            await partition.admission.admit(a_message(), epoch=epoch, nonce="n")
    assert (await partition.logs.read(message.turn_id)).tail == 1  # logs and feeds stay
    assert (await partition.feeds.read("ann", None)).tail == 3
    async with partition.listening(partition.keys.epoch_channel) as heard:
        assert await partition.state.publish(2, max_order=7, run_id="run-2")
        assert await heard.get() == b"2"
    assert (await partition.state.epoch(), await partition.state.written_by()) == (2, "run-2")
    partition.epoch = 2
    admitted = await partition.admit(a_message("bob"))
    assert isinstance(admitted, Admitted) and admitted.order == 8
    await partition.connection.call("DEL", partition.keys.live("ann"))  # its turns were not put back


async def test_only_the_latest_rebuild_wins(partition):
    assert await partition.state.begin(2)
    assert await partition.state.begin(3)  # another reconciler
    async with partition.unchanged():
        assert not await partition.state.begin(2)
        assert not await partition.state.begin(1)
        assert not await partition.state.publish(2, max_order=0, run_id="run")
        with pytest.raises(EpochMismatch):
            await partition.state.restore(queued(a_message(), 1), epoch=2)
    assert await partition.state.publish(3, max_order=0, run_id="run")
    async with partition.unchanged():
        assert not await partition.state.begin(3)
        assert not await partition.state.begin(2)


async def test_steps_of_a_rebuild_may_be_repeated(partition):
    message = a_message()
    for _ in range(2):
        assert await partition.state.begin(2)
    assert await partition.state.restore(queued(message, 1), epoch=2)
    async with partition.unchanged():
        assert not await partition.state.restore(queued(message, 1), epoch=2)
    assert await partition.state.publish(2, max_order=1, run_id="run")
    async with partition.unchanged():
        assert await partition.state.publish(2, max_order=1, run_id="run")
    partition.epoch = 2
    assert await partition.run_all() == [message.turn_id]


async def test_a_rebuild_leaves_no_residue_of_the_state_before(partition):
    claim = await partition.running(await partition.admitted(conversation="c"))
    await partition.admit(a_message(conversation="c", policy=Policy.STEER))
    await partition.finish(await partition.running(await partition.admitted("bob")), lingers=True)
    await partition.connection.call("DEL", partition.keys.live("ann"))  # the turns below are not put back
    await rebuild(partition, lost=False)
    assert not await partition.queue.release(claim.envelope.turn_id, claim.claim_id, epoch=2)
    await partition.check_empty()


# --- what is put back -------------------------------------------------------------------------------------------------


async def test_turns_come_back_in_their_old_order_without_limits(server_url):
    async with a_partition(server_url, running_per_user=1) as partition:
        a1, b1, a2, a3 = (a_message(user, f"{user}{n}") for user, n in (("ann", 1), ("bob", 1), ("ann", 2), ("ann", 2)))
        await rebuild(partition, *(queued(message, order) for order, message in enumerate((a1, b1, a2, a3), 3)))
        records = await partition.check()
        assert [records[m.turn_id]["s"] for m in (a1, b1, a2, a3)] == ["q", "q", "h", "p"]
        assert [records[m.turn_id]["o"] for m in (a1, b1, a2, a3)] == [3, 4, 5, 6]
        assert await partition.run_all() == [m.turn_id for m in (a1, b1, a2, a3)]
        after = await partition.admit(a_message())
        assert isinstance(after, Admitted) and after.order == 51
        types = [event["type"] for event in await partition.feed_events("bob")]
        assert types == ["turn.accepted", "turn.started", "turn.ended"]  # of the new life of the feed


async def test_an_interrupt_comes_back_before_what_it_overtook(partition):
    first, before, hasty = (a_message(conversation="c", policy=p) for p in (*[Policy.ENQUEUE] * 2, Policy.INTERRUPT))
    await rebuild(partition, running(first, 1), queued(before, 2), queued(hasty, 3))
    await partition.finish(first, TurnState.CANCELLED)
    assert await partition.run_all() == [hasty.turn_id, before.turn_id]


async def test_the_conversation_of_a_turn_that_lingers_waits_for_its_exit(partition):
    """Rule 9: it ended, and its code may still run."""
    message, waits = a_message(conversation="c"), a_message(conversation="c")
    await rebuild(partition, running(message, 1, state=TurnState.CANCELLED), queued(waits, 2))
    assert await partition.claim() == []
    async with partition.unchanged():
        again = await partition.admit(message)
        assert isinstance(again, Duplicate) and again.state is TurnState.CANCELLED
        assert await partition.finish(message, TurnState.CANCELLED)  # by a worker that was late with it
    await partition.let_lease_expire(message.turn_id)
    assert await partition.queue.expired(epoch=2) == [ExpiredLease(message.turn_id, "fence", TurnState.CANCELLED)]
    assert await partition.queue.exited(message.turn_id, "fence", epoch=2)
    assert await partition.run_all() == [waits.turn_id]
    await partition.check_empty()


async def test_the_log_of_a_turn_that_lingers_is_closed(partition):
    claim = await partition.running(await partition.admitted(conversation="c"))
    turn_id = claim.envelope.turn_id
    ended = running(claim.envelope, claim.order, claim.claim_id, state=TurnState.CANCELLED)
    partition.epoch = 2
    assert await partition.state.begin(2)
    assert await partition.state.restore(ended, epoch=2)
    assert await partition.state.publish(2, max_order=50, run_id="run")
    assert not (await partition.logs.read(turn_id)).closed
    await partition.finish(claim.envelope, TurnState.CANCELLED, lingers=True)
    assert (await partition.logs.read(turn_id)).closed
    assert turn_id not in (await partition.feeds.read("ann", None)).live
    assert await partition.queue.exited(turn_id, claim.claim_id, epoch=2)
    await partition.check_empty()


async def test_a_running_turn_is_adopted_by_its_claim(partition):
    """Rule 14: under a lease that begins now, with a log that begins anew."""
    message, waits = a_message(conversation="c"), a_message(conversation="c")
    await rebuild(partition, running(message, 1), queued(waits, 2))
    assert await partition.claim() == []
    assert await partition.queue.expired(epoch=partition.epoch) == []
    position = await partition.logs.reopen(
        message.turn_id, "fence", epoch=partition.epoch, seq=4, line=b"snapshot {}", head=b"", incarnation=2
    )
    assert (position.incarnation, position.offset) == (2, 1)
    await partition.let_lease_expire(message.turn_id)
    assert await partition.queue.expired(epoch=partition.epoch) == [
        ExpiredLease(message.turn_id, "fence", TurnState.RUNNING)
    ]
    assert await partition.finish(message, TurnState.INTERRUPTED)
    assert await partition.run_all() == [waits.turn_id]
    await partition.check_empty()


async def test_a_running_turn_goes_on_where_its_log_survived(partition):
    claim = await partition.running(await partition.admitted())
    assert await partition.append(claim, 1, 1, "a") == Appended(2)
    await rebuild(partition, running(claim.envelope, claim.order, claim.claim_id), lost=False)
    assert await partition.append(claim, 2, 2, "b") == Appended(3)
    assert await partition.finish(claim)
    accepted = [event for event in await partition.feed_events() if event["type"] == "turn.accepted"]
    assert len(accepted) == 1  # its feed knew it


async def test_an_attempt_that_valkey_lost_can_be_handed_back(partition):
    message = a_message()
    await rebuild(partition, running(message, 1))
    assert await partition.queue.release(message.turn_id, "fence", epoch=partition.epoch)
    claim = await partition.claimed(message)
    assert isinstance(await partition.start(claim, attempt=2), Opened)


async def test_a_cancel_survives(partition):
    message = a_message()
    await rebuild(partition, running(message, 1, cancelled=True))
    assert (await partition.check())[message.turn_id]["x"] == 1


async def test_steers_come_back_to_the_turn_that_they_steer(partition):
    message, steer = a_message(conversation="c"), a_message(conversation="c", policy=Policy.STEER)
    of_turn = {"state": TurnState.STEERING, "steers": message.turn_id}
    await rebuild(partition, running(message, 1), queued(steer, 2, **of_turn))
    taken = await partition.steers.take(message, "fence", epoch=partition.epoch)
    assert taken == [TakenSteer(steer, 2, 1_700_000_000_002)]
    await partition.finish(message)
    assert await partition.run_all() == [steer.turn_id]


async def test_a_steer_of_a_turn_that_had_not_started_waits_for_it(partition):
    message, steer = a_message(conversation="c"), a_message(conversation="c", policy=Policy.STEER)
    of_turn = {"state": TurnState.STEERING, "steers": message.turn_id}
    await rebuild(partition, queued(message, 1), queued(steer, 2, **of_turn))
    claim = await partition.running(message)
    taken = await partition.steers.take(message, claim.claim_id, epoch=partition.epoch)
    assert taken == [TakenSteer(steer, 2, 1_700_000_000_002)]


async def test_a_steer_whose_turn_is_gone_becomes_a_turn(partition):
    steer = a_message(conversation="c", policy=Policy.STEER)
    await rebuild(partition, queued(steer, 2, state=TurnState.STEERING, steers=new_id()))
    assert await partition.run_all() == [steer.turn_id]


async def test_what_the_reconciler_finds_missing_is_put_back_under_the_current_epoch(partition):
    message = a_message()
    assert await partition.state.restore(queued(message, 7), epoch=1)
    async with partition.unchanged():
        assert not await partition.state.restore(queued(message, 7), epoch=1)
        with pytest.raises(EpochMismatch):
            await partition.state.restore(queued(message, 7), epoch=9)
    later = await partition.admit(a_message())
    assert isinstance(later, Admitted) and later.order == 8
    assert (await partition.run_all())[0] == message.turn_id


async def test_the_reconciler_asks_what_is_missing(partition):
    here = await partition.admitted()
    unknown = new_id()
    assert await partition.state.missing([here.turn_id, unknown]) == {unknown}
    assert await partition.state.missing([]) == set()


@pytest.mark.parametrize("state", [TurnState.QUEUED, TurnState.RUNNING])
async def test_a_turn_that_ended_since_postgresql_was_read_is_not_put_back(partition, state):
    message = await partition.admitted()
    claim = await partition.running(message)
    await partition.finish(claim)
    stale = queued(message, 1, state=state, claim_id=claim.claim_id, worker_id="worker")
    async with partition.unchanged():
        assert not await partition.state.restore(stale, epoch=1)


# --- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "fits"), [(None, True), (0, True), (1, True), (2, False), (-1, False)])
async def test_the_format_of_what_stands_there_is_checked(partition, found, fits):
    if found is not None:
        await partition.connection.call("SET", partition.keys.format, found)
    if fits:
        await partition.state.check_format()
        await partition.state.check_format()
    else:
        with pytest.raises(ConfigurationError, match=f"data format is {found}"):
            await partition.state.check_format()
        assert await partition.connection.call("GET", partition.keys.format) == str(found).encode()


# --- partitions and watching ------------------------------------------------------------------------------------------


async def test_partitions_know_nothing_of_each_other(partition):
    other = Partition(partition.connection, partition.url)
    keys = Keys("acme", "support", 1)
    assert not set(keys.state()) & set(partition.keys.state())
    other.state = WorkingState(partition.connection, keys)
    assert await other.state.epoch() is None
    assert await partition.state.epoch() == 1


async def test_a_watch_knows_the_epoch_at_entry_and_hears_of_the_next(partition):
    async with (
        open_subscriber(partition.url, name="watch") as subscriber,
        EpochWatch(partition.connection, subscriber, partition.keys).watching() as watch,
    ):
        assert watch.current == 1
        assert await watch.wait_for() == 1
        assert await partition.state.begin(2)
        watch.suspect()  # a script refused the epoch
        with pytest.raises(EpochMismatch):
            _ = watch.current
        waiters = [asyncio.create_task(watch.wait_for(other_than=1)) for _ in range(3)]
        assert await partition.state.publish(2, max_order=0, run_id="run")
        assert await asyncio.gather(*waiters) == [2, 2, 2]
        assert watch.current == 2
    partition.epoch = 2


async def test_a_watch_of_an_empty_valkey_waits_for_an_epoch(partition):
    await partition.connection.call("FLUSHALL")
    async with (
        open_subscriber(partition.url, name="watch") as subscriber,
        EpochWatch(partition.connection, subscriber, partition.keys).watching() as watch,
    ):
        with pytest.raises(EpochMismatch):
            _ = watch.current
        waiting = asyncio.create_task(watch.wait_for())
        await partition.connection.call("SET", partition.keys.epoch, 5)  # not even published: it looks again
        assert await waiting == 5


async def test_a_suspicion_that_was_wrong_passes(partition):
    async with (
        open_subscriber(partition.url, name="watch") as subscriber,
        EpochWatch(partition.connection, subscriber, partition.keys).watching() as watch,
    ):
        watch.suspect()
        assert await watch.wait_for() == 1
