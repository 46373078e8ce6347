"""Admission: every outcome, under every policy, and what a refusal leaves (nothing)."""

from __future__ import annotations

import dataclasses
import time

import pytest
from tests.integration.redis.partition import NO_LIMITS, UNLIMITED, Partition, a_message, a_partition

from kdcube.protocol.errors import EpochMismatch
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import Policy, TurnState, UserType, encode_envelope
from kdcube.redis.admission import Admitted, ClassLimits, Delivered, Duplicate, Rejected, Unproven
from kdcube.redis.queue import DONE_TTL_S
from kdcube.redis.rates import Sender

pytestmark = pytest.mark.anyio


def limited(**changes):
    """Limits for everybody: those of a class by name, or any of AdmissionLimits."""
    of_class = {
        field.name: changes.pop(field.name) for field in dataclasses.fields(ClassLimits) if field.name in changes
    }
    classes = dict.fromkeys(UserType, dataclasses.replace(UNLIMITED, **of_class))
    return dataclasses.replace(NO_LIMITS, **{"classes": classes} | changes)


# --- accepted, once ---------------------------------------------------------------------------------------------------


async def test_an_admitted_turn_waits_and_its_user_is_told(partition):
    before_ms = time.time() * 1000 - 1
    first, second = a_message(), a_message("bob")
    one, two = await partition.admit(first), await partition.admit(second)
    assert (one.order, one.position, one.interrupts) == (1, 1, None)
    assert (two.order, two.position) == (2, 2)
    assert before_ms <= one.accepted_ms <= two.accepted_ms <= time.time() * 1000 + 1
    assert await partition.feed_events() == [
        {
            "type": "turn.accepted",
            "turn_id": first.turn_id,
            "client_turn_id": first.client_turn_id,
            "conversation_id": first.conversation_id,
            "bundle_id": first.bundle_id,
        }
    ]
    assert (await partition.feeds.read("ann", None)).live == {first.turn_id: 1}


async def test_a_request_whose_reply_was_lost_gets_its_outcome_again(partition):
    conversation = "c"
    first = a_message(conversation=conversation)
    waits, interrupts = (a_message(conversation=conversation, policy=p) for p in (Policy.ENQUEUE, Policy.INTERRUPT))
    for message in (first, waits, interrupts):
        outcome = await partition.admit(message, "nonce")
        async with partition.unchanged():
            assert dataclasses.replace(await partition.admit(message, "nonce"), eta_s=0) == dataclasses.replace(
                outcome, eta_s=0
            )
    assert outcome.interrupts == first.turn_id
    await partition.claim()
    steer = a_message(conversation=conversation, policy=Policy.STEER)
    outcome = await partition.admit(steer, "nonce")
    assert isinstance(outcome, Delivered)
    async with partition.unchanged():
        assert await partition.admit(steer, "nonce") == outcome


async def test_the_same_message_again_attaches_to_its_turn(partition):
    message = a_message()
    first = await partition.admit(message)

    async def again() -> Duplicate:
        async with partition.unchanged():
            outcome = await partition.admit(message)
            assert isinstance(outcome, Duplicate)
            assert (outcome.order, outcome.accepted_ms) == (first.order, first.accepted_ms)
            assert outcome.conversation_id == message.conversation_id
            return outcome

    packed = encode_envelope(message)
    assert ((seen := await again()).state, seen.envelope) == (TurnState.QUEUED, packed)
    claim = await partition.claimed(message)
    assert ((seen := await again()).state, seen.envelope) == (TurnState.CLAIMED, packed)
    await partition.start(claim)
    assert ((seen := await again()).state, seen.envelope) == (TurnState.RUNNING, packed)
    await partition.finish(claim, TurnState.INTERRUPTED, lingers=True)
    assert ((seen := await again()).state, seen.envelope) == (TurnState.INTERRUPTED, None)
    await partition.queue.exited(message.turn_id, claim.claim_id, epoch=1)
    assert ((seen := await again()).state, seen.envelope) == (TurnState.INTERRUPTED, None)


async def test_the_same_key_with_other_content_is_refused_before_and_after_the_end(partition):
    message = await partition.admitted()
    other = a_message(turn_id=message.turn_id, conversation=message.conversation_id, text="Something else")
    async with partition.unchanged():
        assert await partition.admit(other) == Rejected("idempotency_conflict", 0)
    await partition.run_all()
    async with partition.unchanged():
        assert await partition.admit(other) == Rejected("idempotency_conflict", 0)


async def test_a_rebuilt_working_state_asks_for_proof_for_as_long_as_it_would_have_known_better(partition):
    partition.epoch = 2
    assert await partition.state.begin(2)
    assert await partition.state.publish(2, max_order=7, run_id="run")
    await partition.workers.beat("worker", slots=100, info={})

    async def unproven(message):
        return await partition.admission.admit(message, epoch=2, nonce=new_id())

    message = a_message()
    async with partition.unchanged():
        assert await unproven(message) == Unproven()
    assert isinstance(await partition.admit(message), Admitted)
    assert isinstance(await unproven(message), Duplicate)
    await partition.run_all()
    assert isinstance(await unproven(message), Duplicate)
    until = int(await partition.connection.call("HGET", partition.keys.schedule, "unproven_until"))
    await partition.connection.call("HSET", partition.keys.schedule, "unproven_until", until - DONE_TTL_S * 1000)
    assert isinstance(await unproven(a_message()), Admitted)


async def test_two_sends_at_once_are_one_turn(partition):
    message = a_message()
    outcomes = [partition.admission.admit(message, epoch=1, nonce=new_id()) for _ in range(10)]
    kinds = [type(await outcome) for outcome in outcomes]
    assert sorted(kind.__name__ for kind in kinds) == ["Admitted", *["Duplicate"] * 9]
    assert await partition.run_all() == [message.turn_id]


async def test_numbers_beyond_what_lua_writes_in_full_stay_exact(partition):
    await partition.connection.call("HSET", partition.keys.schedule, "order", 10**14 + 7)
    first, second = a_message(), a_message(conversation="c")
    assert (await partition.admit(first)).order == 10**14 + 8
    assert (await partition.admit(second)).order == 10**14 + 9
    [claim] = await partition.claim()
    assert claim.envelope == first and claim.order == 10**14 + 8
    assert claim.accepted_ms > 1_700_000_000_000


@pytest.mark.parametrize("user", ["Ann Müller", "a:b{c}", "x|y", "日本", "a" * 256, "auth0|5f7", "'; DROP"])
async def test_whatever_a_user_is_called_stays_apart_from_others(partition, user):
    """Names that begin alike, hold separators of keys or sort around the control characters."""
    users = [user, user[:-1], user + " ", user + "!", user + ":c"]
    for name in users:
        for conversation in (f"{users.index(name)}", f"{users.index(name)}-b"):
            await partition.admitted(name[:256] or "-", conversation)
    await partition.check()
    assert len(await partition.run_all()) == 10
    await partition.check_empty()


async def test_bundles_that_begin_alike_have_queues_of_their_own(partition):
    names = ["a", "a-b", "a.b", "a@1", "aa", "a+", "a=", "a:", "A"]
    for name in names:
        await partition.admitted(name, bundle=name)
    for name in reversed(names):
        [claim] = await partition.claim(5, room={name: 5})
        assert claim.envelope.bundle_id == name


# --- a second message of a conversation -------------------------------------------------------------------------------

WAITING_IN = ["queued", "held", "claimed", "running", "ended while its host lives"]


@pytest.fixture
async def tight(server_url):
    """A partition with a cap of one running turn a user."""
    async with a_partition(server_url, running_per_user=1) as partition:
        yield partition


async def busy_conversation(partition: Partition, how: str):
    """The turn that keeps conversation ``c`` busy, and the claim that it may have."""
    if how == "held":
        await partition.admitted()
    message = await partition.admitted(conversation="c")
    if how in ("queued", "held"):
        return message, None
    claim = await partition.claimed(message)
    if how != "claimed":
        await partition.start(claim)
    if how.startswith("ended"):
        await partition.finish(claim, TurnState.CANCELLED, lingers=True)
    return message, claim


@pytest.mark.parametrize("how", WAITING_IN)
@pytest.mark.parametrize("policy", Policy)
async def test_each_policy_against_each_state(tight, how, policy):
    active, claim = await busy_conversation(tight, how)
    message = a_message(conversation="c", policy=policy)
    if policy is Policy.REJECT:
        async with tight.unchanged():
            assert await tight.admit(message) == Rejected("conversation_busy", 1.0)
        return
    outcome = await tight.admit(message)
    records = await tight.check()
    if policy is Policy.STEER and how in ("claimed", "running"):
        assert isinstance(outcome, Delivered) and outcome.steers == active.turn_id
        assert records[message.turn_id]["s"] == "s"
        return
    assert isinstance(outcome, Admitted) and outcome.position == 2
    expected = active.turn_id if policy is Policy.INTERRUPT and not how.startswith("ended") else None
    assert outcome.interrupts == expected
    assert records[message.turn_id]["s"] == "p"
    # It runs as soon as the conversation is free, however that comes.
    if claim and how.startswith("ended"):
        await tight.queue.exited(active.turn_id, claim.claim_id, epoch=1)
    else:
        await tight.finish(claim or active)
    assert (await tight.run_all())[-1] == message.turn_id
    await tight.check_empty()


@pytest.mark.parametrize("policy", Policy)
async def test_an_idle_conversation_takes_any_policy(partition, policy):
    outcome = await partition.admit(a_message(policy=policy))
    assert isinstance(outcome, Admitted) and outcome.interrupts is None


async def test_ten_messages_at_once_run_in_order(partition):
    messages = [a_message(conversation="c") for _ in range(10)]
    outcomes = [await partition.admit(message) for message in messages]
    assert [outcome.position for outcome in outcomes] == [1, *range(2, 11)]
    assert await partition.run_all() == [message.turn_id for message in messages]
    await partition.check_empty()


async def test_interrupts_go_before_what_waits_and_keep_their_order(partition):
    running = await partition.running(await partition.admitted(conversation="c"))
    waits = [await partition.admitted(conversation="c") for _ in range(2)]
    hasty = [await partition.admitted(conversation="c", policy=Policy.INTERRUPT) for _ in range(2)]
    await partition.finish(running, TurnState.CANCELLED)
    assert await partition.run_all() == [message.turn_id for message in (*hasty, *waits)]


async def test_conversations_of_a_user_do_not_wait_for_each_other(partition):
    for _ in range(3):
        await partition.admitted()
    assert len(await partition.claim(3)) == 3


async def test_a_conversation_of_another_user_is_not_found(partition):
    await partition.admitted("ann", "c")
    for policy in Policy:
        async with partition.unchanged():
            assert await partition.admit(a_message("bob", "c", policy=policy)) == Rejected("conversation_not_found", 0)


# --- rates ------------------------------------------------------------------------------------------------------------


async def shift(partition: Partition, key: str, **ms: int) -> None:
    """Moves the beginning of windows, as if so much time had passed."""
    for field, by in ms.items():
        await partition.connection.call("HINCRBY", key, field, by)


async def test_a_burst_is_limited_per_user_and_says_when_to_come_again(server_url):
    async with a_partition(server_url, limits=limited(burst=2, burst_window_s=10)) as partition:
        for session in ("one", "two"):  # another session is no other user
            await partition.admitted(session=session)
        async with partition.unchanged():
            refused = await partition.admit(a_message(session="three"))
            assert isinstance(refused, Rejected) and refused.reason == "rate_limit_burst"
            assert 0 < refused.retry_after_s <= 10
        await partition.admitted("bob")
        key = partition.keys.rate("ann")
        await shift(partition, key, bt=-int(refused.retry_after_s * 1000))  # who comes back then is admitted
        await partition.admitted()  # a new window


async def test_an_hour_is_limited_too(server_url):
    async with a_partition(server_url, limits=limited(hourly=1)) as partition:
        await partition.admitted()
        refused = await partition.admit(a_message())
        assert isinstance(refused, Rejected) and refused.reason == "rate_limit_hourly"
        assert 3590 < refused.retry_after_s <= 3600
        ttl = await partition.connection.call("PTTL", partition.keys.rate("ann"))
        assert 3_590_000 < ttl <= 3_600_000
        await shift(partition, partition.keys.rate("ann"), ht=-3_600_001)
        await partition.admitted()


async def test_who_is_over_both_limits_is_told_the_later_time(server_url):
    async with a_partition(server_url, limits=limited(burst=1, burst_window_s=10, hourly=1)) as partition:
        await partition.admitted()
        refused = await partition.admit(a_message())
        assert refused.reason == "rate_limit_hourly" and refused.retry_after_s > 3590
        await shift(partition, partition.keys.rate("ann"), ht=-3_600_000)  # the hour is over, the burst is not
        refused = await partition.admit(a_message())
        assert refused.reason == "rate_limit_burst" and refused.retry_after_s <= 10


async def test_a_clock_that_was_set_back_locks_nobody_out(server_url):
    async with a_partition(server_url, limits=limited(burst=1, hourly=1)) as partition:
        await partition.admitted()
        await shift(partition, partition.keys.rate("ann"), bt=86_400_000, ht=86_400_000)
        await partition.admitted()


async def test_each_outcome_tells_what_is_left(server_url):
    async with a_partition(server_url, limits=limited(burst=3, burst_window_s=10, hourly=5)) as partition:
        message = a_message(conversation="c")
        lefts = [(await partition.admit(each)).left for each in (message, message, a_message())]
        refused = await partition.admit(a_message(conversation="c", policy=Policy.REJECT))
        counts = [[(window.name, window.quota, window.left) for window in left] for left in (*lefts, refused.left)]
        first = [("burst", 3, 2), ("hourly", 5, 4)]
        second = [("burst", 3, 1), ("hourly", 5, 3)]
        assert counts == [first, first, second, second]
        burst, hourly = refused.left
        assert 0 < burst.reset_s <= 10 and 3590 < hourly.reset_s <= 3600


async def test_an_address_counts_all_its_anonymous_users(server_url):
    async with a_partition(server_url, limits=limited(burst=2, hourly=100, address_share=2)) as partition:

        async def sends(user: str, address: str | None = "9.9.9.9"):
            return await partition.admission.admit(a_message(user), epoch=1, nonce=new_id(), sender=Sender(address))

        assert [type(await sends(f"anon-{n}")) for n in range(4)] == [Admitted] * 4
        async with partition.unchanged():
            refused = await sends("anon-4")
            assert refused.reason == "rate_limit_burst" and refused.retry_after_s > 0
        assert [window.left for window in refused.left] == [0, 100]  # the less of the two
        assert isinstance(await sends("anon-0"), Rejected)
        assert isinstance(await sends("anon-5", "9.9.9.8"), Admitted)
        assert isinstance(await sends("anon-5", None), Admitted)
        assert isinstance(await sends("anon-5", None), Rejected)  # its own limit holds everywhere


async def test_without_rates_pressure_holds(server_url):
    async with a_partition(server_url, limits=limited(burst=1, hourly=1, max_queue_size=3)) as partition:
        for _ in range(3):
            outcome = await partition.admission.admit(a_message(), epoch=1, nonce=new_id(), sender=Sender(rated=False))
            assert isinstance(outcome, Admitted) and outcome.left == ()
        refused = await partition.admission.admit(a_message(), epoch=1, nonce=new_id(), sender=Sender(rated=False))
        assert isinstance(refused, Rejected) and refused.reason == "queue_full"
        assert await partition.connection.call("EXISTS", partition.keys.rate("ann")) == 0


async def test_limits_change_while_they_are_used(server_url):
    async with a_partition(server_url, limits=limited(burst=1)) as partition:
        await partition.admitted()
        assert isinstance(await partition.admit(a_message()), Rejected)
        partition.admission.limits = limited(burst=3)
        assert [type(await partition.admit(a_message())) for _ in range(3)] == [Admitted, Admitted, Rejected]
        partition.admission.limits = limited(burst=-1)
        await partition.admitted()


async def test_what_postgresql_refuses_is_given_back(server_url):
    async with a_partition(server_url, limits=limited(burst=1, hourly=1, address_share=1)) as partition:
        message, where = a_message(), {"epoch": 1, "nonce": "n", "sender": Sender("9.9.9.9")}
        for _ in range(3):
            assert isinstance(await partition.admission.admit(message, **where), Admitted)
            assert await partition.admission.withdraw(message, **where)
        assert isinstance(await partition.admission.admit(message, **where), Admitted)
        for key in (partition.keys.rate("ann"), partition.keys.address_rate("9.9.9.9")):
            await shift(partition, key, bt=60_001)  # a window that began after it
        assert await partition.admission.withdraw(message, **where)
        assert await partition.connection.call("HGET", partition.keys.rate("ann"), "b") == b"1"


async def test_what_is_sent_again_or_refused_is_not_charged(server_url):
    async with a_partition(server_url, limits=limited(burst=2)) as partition:
        message = await partition.admitted(conversation="c")
        for _ in range(5):
            assert isinstance(await partition.admit(message), Duplicate)
            assert isinstance(await partition.admit(a_message(conversation="c", policy=Policy.REJECT)), Rejected)
        await partition.admitted()


async def test_a_steer_is_charged_once_and_not_again_when_it_bounces(server_url):
    async with a_partition(server_url, limits=limited(burst=2)) as partition:
        claim = await partition.running(await partition.admitted(conversation="c"))
        steer = a_message(conversation="c", policy=Policy.STEER)
        assert isinstance(await partition.admit(steer), Delivered)
        refused = await partition.admit(a_message(conversation="c", policy=Policy.STEER))
        assert isinstance(refused, Rejected) and refused.reason == "rate_limit_burst"
        await partition.finish(claim)
        assert await partition.run_all() == [steer.turn_id]


async def test_without_limits_no_rates_are_kept(partition):
    await partition.admitted()
    assert await partition.connection.call("EXISTS", partition.keys.rate("ann")) == 0


# --- capacity ---------------------------------------------------------------------------------------------------------


async def test_pressure_refuses_the_lesser_classes_first(server_url):
    thresholds = {UserType.ANONYMOUS: 0.5, UserType.REGISTERED: 0.75, UserType.PAID: 0.9, UserType.PRIVILEGED: 5.0}
    classes = {kind: dataclasses.replace(UNLIMITED, pressure_threshold=share) for kind, share in thresholds.items()}
    limits = dataclasses.replace(
        NO_LIMITS, classes=classes, hard_limit_threshold=1.2, capacity_buffer=0.5, queue_depth_multiplier=2.0
    )
    async with a_partition(server_url, limits=limits) as partition:
        await partition.workers.beat("worker", slots=10, info={})  # capacity 10 x 0.5 x 2
        let_in = dict.fromkeys(thresholds, 0)
        for kind in thresholds:
            while isinstance(await partition.admit(a_message(user_type=kind)), Admitted):
                let_in[kind] += 1
        assert list(let_in.values()) == [5, 2, 2, 3]  # 5 of 10, 7, 9, and the hard limit for all
        refused = await partition.admit(a_message(user_type=UserType.ANONYMOUS))
        assert isinstance(refused, Rejected) and refused.reason == "backpressure"
        # 12 are there and 5 may be for its class: 8 have to end first. Ten slots, a second each.
        assert refused.retry_after_s == 1
        await partition.connection.call("HSET", partition.keys.schedule, "mean_ms", 30_000)
        assert (await partition.admit(a_message(user_type=UserType.ANONYMOUS))).retry_after_s == 8 * 30 / 10
        await partition.claim(5)  # what runs counts as well
        assert isinstance(await partition.admit(a_message(user_type=UserType.PRIVILEGED)), Rejected)
        await partition.run_all()
        assert isinstance(await partition.admit(a_message(user_type=UserType.PAID)), Admitted)


async def test_the_length_of_the_queue_has_a_hard_cap(server_url):
    async with a_partition(server_url, limits=limited(max_queue_size=3), running_per_user=2) as partition:
        await partition.admitted(conversation="a")
        await partition.admitted(conversation="b")
        await partition.admitted(conversation="c")  # held
        async with partition.unchanged():
            assert await partition.admit(a_message(conversation="a")) == Rejected("queue_full", 1.0)
        await partition.claim()  # what is claimed does not wait
        await partition.admitted(conversation="a")  # parked
        assert await partition.admit(a_message("bob")) == Rejected("queue_full", 1.0)


async def test_one_user_has_so_many_turns_under_way_steers_included(server_url):
    async with a_partition(server_url, limits=limited(live_per_user=3)) as partition:
        claim = await partition.running(await partition.admitted("ann", "c"))
        await partition.admitted("ann", "d")
        assert isinstance(await partition.admit(a_message("ann", "c", policy=Policy.STEER)), Delivered)
        async with partition.unchanged():
            for policy in Policy:
                refused = await partition.admit(a_message("ann", "c" if policy is Policy.STEER else "e", policy=policy))
                assert refused == Rejected("user_queue_full", 2.0)
        await partition.admitted("bob")
        await partition.finish(claim)
        await partition.admitted("ann", "e")


async def test_a_user_has_only_so_many_live_turns(server_url):
    async with a_partition(server_url, limits=limited(live_per_user=3), running_per_user=1) as partition:
        first = await partition.running(await partition.admitted(conversation="a"))
        assert isinstance(await partition.admit(a_message(conversation="a", policy=Policy.STEER)), Delivered)
        await partition.admitted()
        async with partition.unchanged():
            for policy in (Policy.ENQUEUE, Policy.STEER):
                refused = await partition.admit(a_message(conversation="a", policy=policy))
                assert refused == Rejected("user_queue_full", 2.0)
        await partition.admitted("bob")
        await partition.finish(first)
        await partition.admitted()


async def test_live_turns_that_ended_unnoticed_do_not_count(server_url):
    async with a_partition(server_url, limits=limited(live_per_user=2)) as partition:
        for _ in range(2):
            await partition.admitted()
        partition.epoch = 2
        await partition.open()  # a rebuild that put neither back: PostgreSQL had their ends, nobody told Valkey
        message = await partition.admitted()
        assert (await partition.feeds.read("ann", None)).live == {message.turn_id: 3}


async def test_without_a_live_worker_nothing_is_admitted(partition):
    await partition.connection.call("ZADD", partition.keys.beats, "XX", time.time() * 1000 - 15_100, "worker")
    async with partition.unchanged():
        assert await partition.admit(a_message()) == Rejected("no_capacity", 5.0)
    await partition.workers.beat("worker", slots=0, info={})
    assert await partition.admit(a_message()) == Rejected("no_capacity", 5.0)
    await partition.workers.beat("other", slots=1, info={})
    await partition.admitted()


async def test_a_full_memory_admits_nothing_not_even_steers(partition):
    claim = await partition.running(await partition.admitted(conversation="c"))
    await partition.workers.report_memory(0.9)
    async with partition.unchanged():
        assert await partition.admit(a_message()) == Rejected("memory", 5.0)
        assert await partition.admit(a_message(conversation="c", policy=Policy.STEER)) == Rejected("memory", 5.0)
    await partition.workers.report_memory(0.89)
    await partition.admitted()
    await partition.finish(claim)


async def test_a_steer_needs_no_capacity(partition):
    await partition.running(await partition.admitted(conversation="c"))
    await partition.workers.leave("worker")
    assert isinstance(await partition.admit(a_message(conversation="c", policy=Policy.STEER)), Delivered)


async def test_a_refusal_does_not_use_the_key_up(partition):
    message = a_message()
    await partition.workers.leave("worker")
    assert isinstance(await partition.admit(message), Rejected)
    await partition.workers.beat("worker", slots=1, info={})
    assert isinstance(await partition.admit(message), Admitted)


async def test_the_estimate_follows_how_long_turns_take(partition):
    await partition.workers.beat("worker", slots=2, info={})
    await partition.connection.call("HSET", partition.keys.schedule, "mean_ms", 4000)
    outcomes = [await partition.admit(a_message()) for _ in range(3)]
    assert [outcome.eta_s for outcome in outcomes] == [0.0, 2.0, 4.0]


async def test_another_epoch_is_refused(partition):
    message = a_message()
    for epoch in (0, 2):
        async with partition.unchanged():
            with pytest.raises(EpochMismatch):
                await partition.admission.admit(message, epoch=epoch, nonce="n")
            with pytest.raises(EpochMismatch):
                await partition.admission.withdraw(message, epoch=epoch, nonce="n")


# --- taken back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["queued", "parked", "held", "steering"])
async def test_an_admission_that_postgresql_refuses_is_taken_back(tight, how):
    first = await tight.admitted(conversation="c")
    claim = await tight.running(first) if how == "steering" else None
    policy = Policy.STEER if claim else Policy.ENQUEUE
    message = a_message(conversation="c" if how in ("parked", "steering") else None, policy=policy)
    if how == "queued":
        await tight.finish(first)
    await tight.admit(message, "nonce")
    records = await tight.check()
    assert records[message.turn_id]["s"] == {"queued": "q", "parked": "p", "held": "h", "steering": "s"}[how]

    async with tight.unchanged():
        assert not await tight.admission.withdraw(message, epoch=1, nonce="of another request")
    assert await tight.admission.withdraw(message, epoch=1, nonce="nonce")
    async with tight.unchanged():
        assert not await tight.admission.withdraw(message, epoch=1, nonce="nonce")
    last = (await tight.feed_events())[-1]
    assert (last["type"], last["turn_id"]) == ("turn.withdrawn", message.turn_id)
    assert message.turn_id not in (await tight.feeds.read("ann", None)).live
    if claim:
        await tight.finish(claim)
    assert message.turn_id not in await tight.run_all()
    await tight.check_empty()


async def test_what_waited_for_a_withdrawn_turn_goes_on(tight):
    message, second, elsewhere = a_message(conversation="c"), a_message(conversation="c"), a_message()
    for each in (message, second, elsewhere):
        await tight.admit(each, "nonce")
    assert await tight.admission.withdraw(message, epoch=1, nonce="nonce")
    assert await tight.run_all() == [elsewhere.turn_id, second.turn_id]


@pytest.mark.parametrize("how", ["claimed", "running", "ended while its host lives"])
async def test_a_turn_that_a_worker_has_is_not_withdrawn(partition, how):
    message = a_message(conversation="c")
    await partition.admit(message, "nonce")
    claim = await partition.claimed(message)
    if how != "claimed":
        await partition.start(claim)
    if how.startswith("ended"):
        await partition.finish(claim, lingers=True)
    async with partition.unchanged():
        assert not await partition.admission.withdraw(message, epoch=1, nonce="nonce")


async def test_steers_of_a_withdrawn_turn_become_turns(partition):
    """It was claimed, steered and handed back before PostgreSQL refused its admission."""
    message = a_message(conversation="c")
    await partition.admit(message, "nonce")
    claim = await partition.claimed(message)
    steers = [a_message(conversation="c", policy=Policy.STEER) for _ in range(2)]
    for steer in steers:
        assert isinstance(await partition.admit(steer), Delivered)
    await partition.queue.release(message.turn_id, claim.claim_id, epoch=1)
    assert await partition.admission.withdraw(message, epoch=1, nonce="nonce")
    await partition.check()
    assert await partition.receipts(steers[0].turn_id) == ["accepted", "bounced"]
    assert await partition.run_all() == [steer.turn_id for steer in steers]
    await partition.check_empty()


async def test_at_twice_the_capacity_the_lesser_classes_are_shed_first_and_nobody_admitted_is_lost(server_url):
    """Turn by turn: each round twice as many messages come as the worker can end in it."""
    slots, rounds = 10, 40
    ladder = {UserType.ANONYMOUS: 0.4, UserType.REGISTERED: 0.6, UserType.PAID: 0.8, UserType.PRIVILEGED: 1.0}
    classes = {kind: dataclasses.replace(UNLIMITED, pressure_threshold=share) for kind, share in ladder.items()}
    limits = dataclasses.replace(
        NO_LIMITS, classes=classes, hard_limit_threshold=1.0, capacity_buffer=0.0, queue_depth_multiplier=5.0
    )
    async with a_partition(server_url, limits=limits) as partition:
        await partition.workers.beat("worker", slots=slots, info={})
        admitted: dict[UserType, list[str]] = {kind: [] for kind in ladder}
        refused = dict.fromkeys(ladder, 0)
        ended: set[str] = set()

        async def work() -> bool:
            claims = await partition.claim(slots)
            for claim in claims:
                await partition.start(claim)
                await partition.finish(claim)
                ended.add(claim.envelope.turn_id)
            return bool(claims)

        for _ in range(rounds):
            for n in range(2 * slots):
                kind = list(ladder)[n % 4]
                message = a_message(f"{kind}-{n}", user_type=kind)
                match await partition.admit(message):
                    case Admitted():
                        admitted[kind].append(message.turn_id)
                    case Rejected(reason, retry_after_s):
                        assert reason == "backpressure" and retry_after_s >= 1
                        refused[kind] += 1
                    case other:
                        raise AssertionError(other)
            await work()
        assert list(refused.values()) == sorted(refused.values(), reverse=True)
        assert refused[UserType.PRIVILEGED] == 0  # half of the load is paid or privileged: what the worker can do
        assert refused[UserType.ANONYMOUS] > 0.8 * rounds * slots / 2
        while await work():
            pass
        assert ended == {turn for turns in admitted.values() for turn in turns}
        assert isinstance(await partition.admit(a_message(user_type=UserType.ANONYMOUS)), Admitted)


async def test_a_small_system_serves_each_class(server_url):
    """Less than one turn is within the share of a class; an idle slot is there all the same."""
    limits = dataclasses.replace(limited(pressure_threshold=0.5), queue_depth_multiplier=1.0)
    async with a_partition(server_url, limits=limits) as partition:
        await partition.workers.beat("worker", slots=1, info={})
        message = await partition.admitted()
        assert isinstance(await partition.admit(a_message()), Rejected)
        assert await partition.run_all() == [message.turn_id]
        await partition.admitted()
