"""The queue: claims under leases and fences, starts, ends, cancels, and what goes on after each."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from tests.integration.redis.partition import BUNDLE, Partition, a_message, a_partition, terminal_line

from kdcube.protocol.cursors import Position
from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import Policy, TurnState, UserType
from kdcube.redis.admission import Admitted, Delivered, Duplicate
from kdcube.redis.connection import open_connection
from kdcube.redis.epoch import Unfinished
from kdcube.redis.eventlog import Appended, decode_change
from kdcube.redis.queue import DONE_TTL_S, LOG_TTL_S, ClassShare, ExpiredLease, Fenced, Opened, QueuePosition, Stopped
from kdcube.redis.scripts import Script

pytestmark = pytest.mark.anyio


async def deadline_ms(partition: Partition, turn_id: str) -> float | None:
    return await partition.connection.call("ZSCORE", partition.keys.leases, turn_id)


async def test_a_turn_goes_from_its_admission_to_its_end_and_leaves_nothing(partition):
    message = await partition.admitted()
    claim = await partition.running(message)
    assert await partition.append(claim, 1, 1, "a", "b") == Appended(3)
    assert await partition.finish(claim)
    kinds = [line.partition(b" ")[0] for line in await partition.log_lines(message.turn_id)]
    assert kinds == [b"start", b"delta", b"delta", b"complete"]
    types = [event["type"] for event in await partition.feed_events()]
    assert types == ["turn.accepted", "turn.started", "turn.ended"]
    await partition.check_empty()


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_a_claim_is_a_fence_with_a_lease(partition):
    message = a_message()
    admitted = await partition.admit(message)
    before_ms = time.time() * 1000 - 1
    [claim] = await partition.claim(claim_ids=["fence", "another"])
    assert dataclasses.astuple(claim)[1:] == ("fence", admitted.order, admitted.accepted_ms)
    assert claim.envelope == message
    assert before_ms + 15_000 <= await deadline_ms(partition, message.turn_id) <= time.time() * 1000 + 15_001
    assert await partition.claim() == []


async def test_a_claim_whose_reply_was_lost_finds_its_turns_under_new_leases(partition):
    messages = [await partition.admitted(str(number)) for number in range(3)]
    claims = await partition.claim(claim_ids=["x", "y"])
    assert [claim.envelope for claim in claims] == messages[:2]
    await partition.let_lease_expire(messages[0].turn_id)
    async with partition.unchanged():
        assert await partition.claim(claim_ids=["x", "y"]) == claims
    assert await deadline_ms(partition, messages[0].turn_id) > time.time() * 1000 + 10_000
    [claim] = await partition.claim(claim_ids=["z"])
    assert claim.envelope == messages[2]


async def test_a_claim_that_found_nothing_may_be_repeated(partition):
    assert await partition.claim(claim_ids=["x"]) == []
    message = await partition.admitted()
    [claim] = await partition.claim(claim_ids=["x"])
    assert claim.envelope == message


async def test_a_claim_that_comes_late_gives_no_fence_a_second_time(partition):
    """Its repeat was answered and the turn started: under the same fence there is room for no other one."""
    running = await partition.running(await partition.admitted())
    await partition.admitted()
    assert await partition.claim(claim_ids=[running.claim_id]) == []
    assert await partition.append(running, 1, 1, "a") == Appended(2)


async def test_a_worker_claims_what_it_has_room_for(partition):
    for number in range(6):
        await partition.admitted(str(number), bundle=f"{'ab'[number % 2]}@1")
    assert await partition.claim(9, room={"c@1": 9}) == []
    assert await partition.claim(9, room={}) == []
    assert await partition.claim(9, room={"a@1": 0}) == []
    claims = await partition.claim(9, room={"a@1": 1, "b@1": 2, "c@1": 3})
    assert [claim.envelope.user_id for claim in claims] == ["0", "1", "3"]
    assert [claim.envelope.user_id for claim in await partition.claim(2, room={"b@1": 9, "a@1": 9})] == ["2", "4"]


async def test_a_stopped_revision_claims_no_more_but_learns_what_it_claimed(partition):
    for _ in range(2):
        await partition.admitted()
    claims = await partition.claim(claim_ids=["x"])
    await partition.workers.stop_claims(["r1", "r0"])

    async def claim(revision, *ids):
        return await partition.queue.claim(
            epoch=1, worker_id="worker", revision=revision, room={BUNDLE: 9}, claim_ids=ids
        )

    assert await claim("r1", "x") == claims
    assert await claim("r1", "y") == Stopped()
    await partition.workers.allow_claims(["r1"])
    assert len(await claim("r1", "y")) == 1
    assert await claim("r0", "z") == Stopped()


async def test_envelopes_that_are_too_new_wait_for_a_newer_worker(partition):
    """Rule 27, during a roll-out: of 16 newer ones an old worker looks past, in each class and bundle."""
    newer = [await partition.admitted(f"new-{number}", version=2) for number in range(16)]
    older = await partition.admitted("old")
    other = await partition.admitted("other", version=2, bundle="other@1")
    claims = await partition.claim(9, room={BUNDLE: 9, "other@1": 9})
    assert [claim.envelope for claim in claims] == [older]
    await partition.admitted("new-16", version=2)
    await partition.admitted("old-2")
    assert await partition.claim(9) == []
    for message in (*newer[:2], other):
        await partition.finish(message, TurnState.CANCELLED)
    assert len(await partition.claim(9)) == 1


async def test_many_claims_in_one_call(partition):
    for number in range(1200):
        await partition.admitted(f"user-{number}", bundle=f"b{number % 3}")
    room = {f"b{number}": 2000 for number in range(3)}
    claims = await partition.claim(1200, room=room)
    assert len(claims) == 1000  # a script's arguments have a limit; the doorbell rings for the rest
    assert len({claim.claim_id for claim in claims}) == 1000
    assert len(await partition.claim(1200, room=room)) == 200


async def test_the_doorbell_rings_for_work_and_not_without_end(partition):
    doorbell = partition.keys.doorbell
    await partition.connection.call("DEL", doorbell)
    for number in range(100):
        await partition.admitted(f"{number}")
    assert await partition.connection.call("LLEN", doorbell) == 0  # not before PostgreSQL has them
    await partition.claim(2)
    assert await partition.connection.call("LLEN", doorbell) == 1  # work remains
    assert await partition.claim(2, room={"other@1": 2}) == []
    assert await partition.connection.call("LLEN", doorbell) == 1  # but not for this worker: no ping-pong
    for _ in range(100):
        partition.workers.ring()
    assert await partition.connection.call("LLEN", doorbell) == 64


# --- handing back -----------------------------------------------------------------------------------------------------


async def test_a_turn_that_is_handed_back_keeps_its_place(partition):
    messages = [await partition.admitted(str(number)) for number in range(3)]
    claim = await partition.claimed(messages[0])
    assert await partition.queue.release(messages[0].turn_id, claim.claim_id, epoch=1)
    async with partition.unchanged():
        assert not await partition.queue.release(messages[0].turn_id, claim.claim_id, epoch=1)
        assert await partition.start(claim) == Fenced()
        assert not await partition.finish(claim)
    assert await partition.run_all() == [message.turn_id for message in messages]


async def test_the_reaper_hands_back_only_what_has_expired_and_not_started(partition):
    message = await partition.admitted()
    claim = await partition.claimed(message)

    async def release() -> bool:
        return await partition.queue.release(message.turn_id, claim.claim_id, epoch=1, only_expired=True)

    assert not await release()
    assert await partition.queue.expired(epoch=1) == []
    await partition.let_lease_expire(message.turn_id)
    assert await partition.queue.expired(epoch=1) == [ExpiredLease(message.turn_id, claim.claim_id, TurnState.CLAIMED)]
    assert await release()
    assert await partition.queue.expired(epoch=1) == []
    claim = await partition.running(message)
    await partition.let_lease_expire(message.turn_id)
    assert await partition.queue.expired(epoch=1) == [ExpiredLease(message.turn_id, claim.claim_id, TurnState.RUNNING)]
    assert not await release()
    assert await partition.queue.release(message.turn_id, claim.claim_id, epoch=1)  # PostgreSQL grants another attempt


async def test_expired_leases_come_in_pages(partition):
    messages = [await partition.admitted(str(number)) for number in range(5)]
    await partition.claim(5)
    for message in messages:
        await partition.let_lease_expire(message.turn_id)
    assert len(await partition.queue.expired(epoch=1, limit=3)) == 3


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_start_opens_the_log_once(partition):
    message = await partition.admitted()
    claim = await partition.claimed(message)
    assert await partition.start(claim) == Opened(1, 1, False)
    await partition.append(claim, 1, 1, "a")
    async with partition.unchanged():
        assert await partition.start(claim) == Opened(1, 2, False)
    events = await partition.feed_events()
    assert [(event["type"], event.get("attempt")) for event in events] == [("turn.accepted", None), ("turn.started", 1)]


async def test_another_attempt_goes_on_in_the_same_log(partition):
    message = await partition.admitted()
    first = await partition.running(message)
    await partition.append(first, 1, 1, "a")
    await partition.queue.release(message.turn_id, first.claim_id, epoch=1)
    second = await partition.claimed(message)
    assert await partition.start(second, attempt=2) == Opened(1, 3, False)
    assert await partition.append(first, 2, 2, "zombie") == Fenced()
    assert await partition.append(second, 1, 3, "b") == Appended(4)
    await partition.finish(second)
    kinds = [line.partition(b" ")[0] for line in await partition.log_lines(message.turn_id)]
    assert kinds == [b"start", b"delta", b"start", b"delta", b"complete"]


async def test_a_cancel_reaches_the_worker_by_message_by_start_and_by_renewal(partition):
    message = await partition.admitted()
    cancel = partition.queue.cancel
    async with partition.unchanged():
        assert not await cancel(message.turn_id, epoch=1)  # nobody has it: PostgreSQL has ended it
        assert not await cancel(new_id(), epoch=1)
    claim = await partition.claimed(message)
    async with partition.listening(partition.keys.worker_channel("worker")) as heard:
        assert await cancel(message.turn_id, epoch=1)
        assert await heard.get() == f"cancel {message.turn_id} {claim.claim_id}".encode()
    assert await partition.start(claim) == Opened(1, 1, True)
    assert await partition.start(claim) == Opened(1, 1, True)
    keys = partition.keys
    _, cancelled = await Script("renew")(
        partition.connection, [keys.epoch, keys.turns, keys.leases], [1, 15_000, message.turn_id, claim.claim_id]
    )
    assert cancelled == [message.turn_id.encode()]
    await partition.finish(claim, TurnState.CANCELLED, lingers=True)
    async with partition.unchanged():
        assert not await cancel(message.turn_id, epoch=1)


# --- ending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["queued", "parked", "held", "claimed", "running"])
@pytest.mark.parametrize("state", [TurnState.COMPLETED, TurnState.FAILED, TurnState.CANCELLED, TurnState.INTERRUPTED])
async def test_a_turn_ends_from_wherever_it_is_exactly_once(server_url, how, state):
    async with a_partition(server_url, running_per_user=1) as partition:
        first = await partition.admitted(conversation="c") if how in ("parked", "held") else None
        message = await partition.admitted(conversation="c" if how == "parked" else None)
        claim = await partition.claimed(message) if how in ("claimed", "running") else None
        if how == "running":
            await partition.start(claim)
        assert await partition.finish(message, state)
        async with partition.unchanged():
            assert await partition.finish(message, state)
            if claim:
                assert await partition.start(claim) == Fenced()
                assert await partition.append(claim, 1, 1, "late") == Fenced()
        line = (await partition.log_lines(message.turn_id))[-1]
        assert line == terminal_line(state)
        page = await partition.logs.read(message.turn_id)
        assert page.closed and not page.known
        events = [event for event in await partition.feed_events() if event["turn_id"] == message.turn_id]
        assert (events[-1]["type"], events[-1]["state"]) == ("turn.ended", state)
        assert await partition.run_all() == ([first.turn_id] if first else [])
        await partition.check_empty()


@pytest.mark.parametrize(("memory", "thrift"), [(0.499, 1), (0.5, 15)])
async def test_what_an_end_leaves_goes_away_by_itself_and_sooner_when_memory_is_scarce(partition, memory, thrift):
    await partition.workers.report_memory(memory)
    message = await partition.admitted()
    await partition.finish(await partition.running(message))
    keys = partition.keys
    for key, ttl_s in (
        (keys.log(message.turn_id), LOG_TTL_S / thrift),
        (keys.log_meta(message.turn_id), LOG_TTL_S / thrift),
        (keys.done(message.turn_id), DONE_TTL_S / thrift),
        (keys.feed("ann"), 24 * 3600),
        (keys.live("ann"), 24 * 3600),
    ):
        assert (ttl_s - 10) * 1000 < await partition.connection.call("PTTL", key) <= ttl_s * 1000


async def test_an_end_needs_the_current_claim(partition):
    message = await partition.admitted()
    old = await partition.running(message)
    async with partition.unchanged():
        assert not await partition.finish(dataclasses.replace(old, claim_id="another"))
    await partition.queue.release(message.turn_id, old.claim_id, epoch=1)
    async with partition.unchanged():
        assert not await partition.finish(old)
    new = await partition.running(message)
    async with partition.unchanged():
        assert not await partition.finish(old)
    assert await partition.finish(new)


async def test_an_end_that_valkey_does_not_know_closes_the_log_and_tells_the_feed(partition):
    """The working state was rebuilt after PostgreSQL had the end and before Valkey was told."""
    message = await partition.admitted()
    claim = await partition.running(message)
    partition.epoch = 2
    await partition.open()
    assert await partition.finish(message, TurnState.INTERRUPTED)
    page = await partition.logs.read(message.turn_id)
    assert page.closed and page.lines[-1] == terminal_line(TurnState.INTERRUPTED)
    assert (await partition.feed_events())[-1]["type"] == "turn.ended"
    async with partition.unchanged():
        assert await partition.finish(message, TurnState.INTERRUPTED)
        assert await partition.finish(claim, TurnState.INTERRUPTED)
    await partition.check_empty()


async def test_a_log_that_was_lost_and_that_nobody_knows_of_is_not_only_its_end(partition):
    """A worker finds that PostgreSQL has the end of a turn that a replica, which lagged, gave it to run."""
    message = await partition.admitted()
    await partition.claim()
    line = terminal_line(attempt=1)
    assert await partition.queue.finish(message, None, epoch=1, state=TurnState.COMPLETED, line=line)
    page = await partition.logs.read(message.turn_id)
    assert (page.exists, page.known) == (False, False)


@pytest.mark.parametrize("fault", ["none", "lost", "rolled back", "another life"])
async def test_a_log_that_does_not_say_what_is_stored_gives_way_to_the_stored_turn(partition, fault):
    message = await partition.admitted()
    claim = await partition.running(message)
    await partition.append(claim, 1, 1, "a")
    turn_id, said = message.turn_id, Position(1, 2)
    if fault == "lost":
        await partition.connection.call("DEL", partition.keys.log(turn_id), partition.keys.log_meta(turn_id))
    elif fault == "rolled back":
        said = Position(1, 3)
    elif fault == "another life":
        said = Position(2, 2)
    async with partition.listening(partition.keys.log_channel(turn_id)) as heard:
        for _ in range(2):
            assert await partition.queue.finish(
                message, None, epoch=1, state=TurnState.COMPLETED, line=terminal_line(), said=said
            )
        page = await partition.logs.read(turn_id)
        assert (page.exists, page.tail) == ((True, 3) if fault == "none" else (False, 0))
        told = decode_change(await heard.get())
        assert told.closed
        assert told.lines is None or fault == "none"  # whoever follows looks, and finds the stored turn
        assert (told.epoch, told.incarnation) > (1, 1) or fault == "none"


async def test_an_open_log_of_which_nobody_knows_goes_away_by_itself(partition):
    claim = await partition.running(await partition.admitted())
    turn_id = claim.envelope.turn_id
    for key in (partition.keys.log(turn_id), partition.keys.log_meta(turn_id)):
        assert await partition.connection.call("PTTL", key) > 24 * 3600 * 1000


async def test_an_end_of_a_turn_of_which_nothing_is_left_leaves_nothing(partition):
    async with partition.unchanged():
        assert await partition.finish(a_message("unknown"))


async def test_a_conversation_waits_for_the_exit_of_a_host(partition):
    message = await partition.admitted(conversation="c")
    claim = await partition.running(message)
    waits = await partition.admitted(conversation="c")
    assert await partition.finish(claim, TurnState.CANCELLED, lingers=True)
    async with partition.unchanged():
        assert await partition.finish(claim, TurnState.CANCELLED)
        assert await partition.claim() == []
        assert await partition.start(claim) == Fenced()
        assert not await partition.queue.release(message.turn_id, claim.claim_id, epoch=1)
        assert not await partition.queue.exited(message.turn_id, "another", epoch=1)
        assert not await partition.queue.exited(waits.turn_id, claim.claim_id, epoch=1)
    page = await partition.logs.read(message.turn_id)
    assert page.closed
    assert await partition.queue.exited(message.turn_id, claim.claim_id, epoch=1)
    assert await partition.run_all() == [waits.turn_id]
    await partition.check_empty()


async def test_a_host_whose_worker_died_is_found_by_its_lease(partition):
    message = await partition.admitted(conversation="c")
    claim = await partition.running(message)
    deadline = await deadline_ms(partition, message.turn_id)
    await partition.finish(claim, TurnState.FAILED, lingers=True)
    assert await deadline_ms(partition, message.turn_id) == deadline
    await partition.let_lease_expire(message.turn_id)
    [expired] = await partition.queue.expired(epoch=1)
    assert expired == ExpiredLease(message.turn_id, claim.claim_id, TurnState.CANCELLED)
    assert await partition.queue.exited(message.turn_id, expired.claim_id, epoch=1)


async def test_only_a_claimed_turn_can_have_a_host(partition):
    """PostgreSQL is terminal while the turn is back in the queue: nothing would ever free its conversation."""
    message = await partition.admitted(conversation="c")
    await partition.finish(message, TurnState.CANCELLED, lingers=True)
    await partition.check_empty()


# --- caps and order ---------------------------------------------------------------------------------------------------


async def test_a_user_runs_no_more_turns_at_once_than_allowed(server_url):
    async with a_partition(server_url, running_per_user=2) as partition:
        messages = [await partition.admitted() for _ in range(5)]
        other = await partition.admitted("bob")
        claims = await partition.claim(9)
        assert [claim.envelope for claim in claims] == [messages[0], other, messages[1]]
        assert await partition.claim(9) == []
        await partition.finish(messages[1])
        [fourth] = await partition.claim(9)
        assert fourth.envelope == messages[2]
        await partition.finish(messages[3])  # it was held
        await partition.finish(messages[0])
        [fifth] = await partition.claim(9)
        assert fifth.envelope == messages[4]


async def test_a_higher_cap_frees_all_that_it_allows(server_url):
    async with a_partition(server_url, running_per_user=1) as partition:
        messages = [await partition.admitted() for _ in range(5)]
        claim = await partition.running(messages[0])
        raised = Partition(partition.connection, server_url, running_per_user=3)
        await raised.finish(claim)
        await raised.check()
        assert len(await raised.claim(9)) == 3


@pytest.mark.parametrize("how", ["queued", "held", "claimed"])
async def test_a_running_turn_that_is_put_back_takes_its_conversation_back(server_url, how):
    """Valkey had lost it, and another turn was admitted as if the conversation were idle."""
    async with a_partition(server_url, running_per_user=1) as partition:
        if how == "held":
            await partition.admitted()
        other = await partition.admitted(conversation="c")
        too_early = await partition.claimed(other) if how == "claimed" else None
        lost = Unfinished(
            a_message(conversation="c"),
            order=1,
            accepted_ms=1,
            state=TurnState.RUNNING,
            claim_id="fence",
            worker_id="worker",
        )
        assert await partition.state.restore(lost, epoch=1)
        if too_early:  # PostgreSQL refuses its START: a turn of the conversation runs
            assert await partition.queue.release(other.turn_id, too_early.claim_id, epoch=1)
        assert (await partition.check())[other.turn_id]["s"] == "p"
        await partition.finish(lost.envelope)
        assert other.turn_id in await partition.run_all()
        await partition.check_empty()


# --- positions --------------------------------------------------------------------------------------------------------


async def test_positions_of_turns_in_every_state(server_url):
    async with a_partition(server_url, running_per_user=2) as partition:
        await partition.workers.beat("worker", slots=1, info={})
        await partition.connection.call("HSET", partition.keys.schedule, "mean_ms", 2000)
        running = await partition.admitted("zoe")
        await partition.running(running)
        first = await partition.admitted("bob", "b")
        second = await partition.admitted("ann", "a")
        third = await partition.admitted("ann", "a2")
        parked = await partition.admitted("ann", "a")
        held = await partition.admitted("ann", "a3")
        ids = [message.turn_id for message in (running, first, second, third, parked, held)] + [new_id()]
        async with partition.unchanged():
            assert await partition.queue.positions(ids, epoch=1) == [
                QueuePosition(TurnState.RUNNING, 0, 0),
                QueuePosition(TurnState.QUEUED, 1, 0),
                QueuePosition(TurnState.QUEUED, 2, 2.0),
                QueuePosition(TurnState.QUEUED, 3, 4.0),
                QueuePosition(TurnState.QUEUED, 2, 2.0),
                QueuePosition(TurnState.QUEUED, 2, 2.0),
                QueuePosition(None, 0, 0),
            ]


# --- epochs, memory ---------------------------------------------------------------------------------------------------


async def test_every_script_refuses_another_epoch_and_changes_nothing(partition):
    message = await partition.admitted(conversation="c")
    claim = await partition.running(message)
    await partition.admit(a_message(conversation="c", policy=Policy.STEER))
    await partition.admitted()
    keys = partition.keys
    calls = [
        lambda: partition.claim(),
        lambda: partition.start(claim),
        lambda: partition.append(claim, 1, 1, "a"),
        lambda: partition.finish(claim),
        lambda: partition.finish(message),
        lambda: partition.queue.release(message.turn_id, claim.claim_id, epoch=partition.epoch),
        lambda: partition.queue.exited(message.turn_id, claim.claim_id, epoch=partition.epoch),
        lambda: partition.queue.cancel(message.turn_id, epoch=partition.epoch),
        lambda: partition.queue.expired(epoch=partition.epoch),
        lambda: partition.queue.positions([message.turn_id], epoch=partition.epoch),
        lambda: partition.steers.take(message, claim.claim_id, epoch=partition.epoch),
        lambda: partition.steers.applied(message, claim.claim_id, [new_id()], epoch=partition.epoch),
        lambda: partition.logs.reopen(
            message.turn_id, claim.claim_id, epoch=partition.epoch, seq=1, line=b"x", head=b"", incarnation=2
        ),
        lambda: Script("renew")(
            partition.connection,
            [keys.epoch, keys.turns, keys.leases],
            [partition.epoch, 1, message.turn_id, claim.claim_id],
        ),
    ]
    for epoch in (0, 2, 10**12):
        partition.epoch = epoch
        for call in calls:
            async with partition.unchanged():
                with pytest.raises(EpochMismatch):
                    await call()
    partition.epoch = 1
    await partition.connection.call("DEL", keys.epoch)  # lost
    with pytest.raises(EpochMismatch):
        await partition.claim()
    await partition.connection.call("SET", keys.epoch, 1)


async def test_turns_end_and_are_handed_back_when_memory_is_full(partition):
    """What frees memory must not need any; what takes more is refused and may be sent again."""
    running = await partition.running(await partition.admitted(conversation="c"))
    steer = a_message(conversation="c", policy=Policy.STEER)
    assert isinstance(await partition.admit(steer), Delivered)
    taken = await partition.claimed(await partition.admitted("bob"))
    await partition.admit(withdrawn := a_message("cy"), "nonce")
    limit = await partition.connection.call("CONFIG", "GET", "maxmemory")
    await partition.connection.call("CONFIG", "SET", "maxmemory", 1)
    try:
        async with partition.unchanged():
            for refused in (partition.admit(a_message()), partition.append(running, 1, 1, "a"), partition.claim()):
                with pytest.raises(StoreUnavailable, match="OOM"):
                    await refused
        assert await partition.queue.cancel(running.envelope.turn_id, epoch=1)
        assert await partition.queue.release(taken.envelope.turn_id, taken.claim_id, epoch=1)
        assert await partition.admission.withdraw(withdrawn, epoch=1, nonce="nonce")
        assert await partition.finish(running, TurnState.CANCELLED, discarded=[steer.turn_id], lingers=True)
        assert await partition.queue.exited(running.envelope.turn_id, running.claim_id, epoch=1)
        assert await partition.finish(taken.envelope)
        partition.epoch = 2
        assert await partition.state.begin(2)
    finally:
        await partition.connection.call("CONFIG", "SET", "maxmemory", limit[b"maxmemory"])
    assert await partition.state.publish(2, max_order=0, run_id="run")
    await partition.check_empty()


async def test_hundreds_at_once_from_several_workers(server_url):
    """Concurrent ingress and workers over several connections: each turn runs once, in order."""
    async with a_partition(server_url, running_per_user=3) as partition, a_second(server_url) as other:
        ran: dict[str, list[int]] = {}
        messages = {f"{user}-{conversation}": user for user in range(6) for conversation in range(3)}

        async def send(conversation: str, user: int) -> None:
            for number in range(5):
                message = a_message(f"user-{user}", conversation, user_type=list(UserType)[user % 5], text=str(number))
                outcome = await (partition, other)[number % 2].admit(message)
                assert isinstance(outcome, Admitted) and not isinstance(outcome, Duplicate)

        async def work(at: Partition, name: str) -> None:
            while sum(map(len, ran.values())) < 90:
                for claim in await at.claim(3, worker=name):
                    assert isinstance(await at.start(claim), Opened)
                    ran.setdefault(claim.envelope.conversation_id, []).append(int(claim.envelope.text))
                    assert await at.finish(claim)

        await asyncio.gather(
            *(send(conversation, user) for conversation, user in messages.items()),
            *(work((partition, other)[number % 2], f"worker-{number}") for number in range(4)),
        )
        assert ran == {conversation: list(range(5)) for conversation in messages}
        await partition.check_empty()


@asynccontextmanager
async def a_second(url: str) -> AsyncGenerator[Partition]:
    """The same partition over a connection of its own."""
    async with open_connection(url, name="second") as connection:
        yield Partition(connection, url, running_per_user=3)


SHARES = {UserType.PAID: ClassShare(4), UserType.REGISTERED: ClassShare(1)}


async def test_a_class_that_has_no_share_is_not_claimed(server_url):
    async with a_partition(server_url, shares=SHARES) as partition:
        await partition.admitted(user_type=UserType.ANONYMOUS)
        assert await partition.claim() == []
