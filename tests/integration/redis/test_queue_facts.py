"""What the queue says of itself to whoever may only read."""

from __future__ import annotations

import msgspec
import pytest
from tests.integration.redis.partition import UNLIMITED, Partition, a_message

from kdcube.protocol.turns import Policy, UserType
from kdcube.redis import queue_facts
from kdcube.redis.admission import AdmissionLimits, ClassLimits, Rejected
from kdcube.redis.queue_facts import QueueFacts, read_queue_facts
from kdcube.redis.standing import standing_of

pytestmark = pytest.mark.anyio


async def facts_of(partition: Partition) -> QueueFacts:
    async with partition.unchanged():
        return await read_queue_facts(partition.connection, partition.keys)


async def make_older(partition: Partition, turn_id: str, by_s: int) -> None:
    record = msgspec.msgpack.decode(await partition.connection.call("HGET", partition.keys.turns, turn_id))
    record["at"] -= by_s * 1000
    await partition.connection.call("HSET", partition.keys.turns, turn_id, msgspec.msgpack.encode(record))


async def test_an_empty_queue(partition):
    facts = await facts_of(partition)
    assert (facts.present, facts.running, facts.queued, facts.parked, facts.held) == (0, 0, 0, 0, 0)
    assert facts.competing == dict.fromkeys(UserType, 0)
    assert (facts.oldest_s, facts.live_workers, facts.live_slots) == ({}, 1, 100)


async def test_turns_are_counted_where_they_wait(partition):
    running = await partition.admitted("ann", "talk")
    await partition.running(running)
    await partition.admitted("ann", "talk")
    await partition.admit(a_message("ann", "talk", policy=Policy.STEER))
    for _ in range(9):
        await partition.admitted("ben", user_type=UserType.ANONYMOUS)
    await partition.workers.beat("another", slots=7, info={})
    facts = await facts_of(partition)
    assert (facts.present, facts.running, facts.queued) == (12, 1, 11)
    assert facts.competing[UserType.ANONYMOUS] == 8
    assert facts.competing[UserType.PAID] == 0
    assert (facts.parked, facts.held) == (2, 1)
    assert (facts.live_workers, facts.live_slots) == (2, 107)
    gauges = {(gauge["name"], *gauge["labels"].values()): gauge["value"] for gauge in facts.gauges()}
    assert gauges["queue_turns", "anonymous"] == 8
    assert gauges["turns_queued",] == 11
    assert ("queue_oldest_seconds", "paid") not in gauges


async def test_the_oldest_need_not_be_the_next(partition, monkeypatch):
    """A user's second turn waits behind the first of everybody who came later."""
    monkeypatch.setattr(queue_facts, "PAGE", 2)
    first, second = await partition.admitted("ann"), await partition.admitted("ann")
    later = [await partition.admitted(f"user {number}") for number in range(5)]
    other = await partition.admitted("cem", user_type=UserType.EXTERNAL)
    for turn, by_s in ((first, 400), (second, 300), (later[0], 100), (other, 50)):
        await make_older(partition, turn.turn_id, by_s)
    await partition.claimed(first)
    facts = await facts_of(partition)
    assert facts.oldest_s.keys() == {UserType.PAID, UserType.EXTERNAL}
    assert int(facts.oldest_s[UserType.PAID]) // 10 == 30
    assert int(facts.oldest_s[UserType.EXTERNAL]) // 10 == 5


async def test_standing_is_what_admission_goes_by(partition):
    limits = AdmissionLimits(
        classes=dict.fromkeys(UserType, UNLIMITED)
        | {UserType.ANONYMOUS: ClassLimits(burst=-1, burst_window_s=60, hourly=-1, pressure_threshold=0.5)},
        hard_limit_threshold=0.9,
        capacity_buffer=0.5,
        queue_depth_multiplier=2.0,
        max_queue_size=-1,
    )
    partition.admission.limits = limits
    await partition.workers.beat("worker", slots=10, info={})
    standing = standing_of(await facts_of(partition), limits)
    assert (standing.capacity, standing.pressure) == (10.0, 0.0)
    assert (standing.admitted_to[UserType.ANONYMOUS], standing.admitted_to[UserType.PAID]) == (5, 9)
    for number in range(5):
        await partition.admitted(f"user {number}", user_type=UserType.ANONYMOUS)
    assert isinstance(await partition.admit(a_message("more", user_type=UserType.ANONYMOUS)), Rejected)
    assert standing_of(await facts_of(partition), limits).pressure == 0.5
