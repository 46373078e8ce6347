"""Workers: heartbeats, what they say of themselves, renewal of leases, and stops."""

from __future__ import annotations

import time

import pytest
from tests.integration.redis.partition import Partition, a_message

from kdcube.protocol.turns import TurnState
from kdcube.redis.admission import Admitted
from kdcube.redis.renewal import Renewal, Renewed

pytestmark = pytest.mark.anyio


async def slots(partition: Partition) -> int:
    """Live slots, as the estimate of a turn shows them."""
    await partition.connection.call("HSET", partition.keys.schedule, "mean_ms", 1000)
    estimates = []
    for _ in range(2):
        outcome = await partition.admit(a_message())
        if not isinstance(outcome, Admitted):
            return 0
        estimates.append(outcome.eta_s)
    await partition.run_all()
    return round(1 / estimates[1])


async def test_the_slots_of_live_workers_add_up(partition):
    await partition.workers.beat("worker", slots=2, info={"host": "a"})
    assert await slots(partition) == 2
    await partition.workers.beat("other", slots=3, info={"host": "b"})
    assert await slots(partition) == 5
    assert await partition.workers.describe() == {"worker": {"host": "a"}, "other": {"host": "b"}}
    await partition.workers.beat("other", slots=1, info={"host": "b", "draining": True})
    assert await slots(partition) == 3
    await partition.workers.leave("other")
    assert await slots(partition) == 2
    assert await partition.workers.describe() == {"worker": {"host": "a"}}
    await partition.workers.leave("other")


async def test_a_worker_without_heartbeats_counts_no_more_and_is_forgotten_later(partition):
    now_ms = time.time() * 1000
    await partition.workers.beat("late", slots=3, info={})
    await partition.connection.call("ZADD", partition.keys.beats, "XX", now_ms - 15_100, "late")
    await partition.workers.beat("worker", slots=2, info={})
    assert await slots(partition) == 2
    assert set(await partition.workers.describe()) == {"worker", "late"}
    await partition.connection.call("ZADD", partition.keys.beats, "XX", now_ms - 150_100, "late")
    await partition.workers.beat("worker", slots=2, info={})
    assert set(await partition.workers.describe()) == {"worker"}
    assert await partition.connection.call("HKEYS", partition.keys.slots) == [b"worker"]


async def test_a_new_worker_rings_the_doorbell(partition):
    await partition.connection.call("DEL", partition.keys.doorbell)
    await partition.workers.beat("worker", slots=2, info={})
    assert await partition.connection.call("LLEN", partition.keys.doorbell) == 0
    await partition.workers.beat("new", slots=2, info={})
    assert await partition.connection.call("LLEN", partition.keys.doorbell) == 1


async def test_a_beat_needs_no_epoch(partition):
    """Workers beat while Valkey is being rebuilt: then there is capacity at once."""
    await partition.connection.call("FLUSHALL")
    await partition.workers.beat("worker", slots=2, info={})
    partition.epoch = 2
    await partition.open(slots=0)
    await partition.admitted()


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def renewal(partition):
    epoch: list[int | None] = [1]
    renewal = Renewal(
        partition.url,
        partition.keys,
        worker_id="worker",
        lease_s=15,
        heartbeat_ttl_s=15,
        epoch=lambda: epoch[0],
        describe=lambda: (7, {"host": "a"}),
    )
    renewal.of_epoch = epoch  # type: ignore[attr-defined]
    yield renewal
    renewal.close()


async def deadline_s(partition: Partition, turn_id: str) -> float:
    score = await partition.connection.call("ZSCORE", partition.keys.leases, turn_id)
    return score / 1000 - time.time()


async def test_leases_are_renewed_by_their_fences(partition, renewal):
    one, two, three = [await partition.running(await partition.admitted(str(n))) for n in range(3)]
    for claim in (one, two, three):
        await partition.let_lease_expire(claim.envelope.turn_id)
    await partition.queue.release(two.envelope.turn_id, two.claim_id, epoch=1)
    await partition.queue.cancel(three.envelope.turn_id, epoch=1)
    renewed = renewal.renew(
        {
            one.envelope.turn_id: one.claim_id,
            two.envelope.turn_id: two.claim_id,
            three.envelope.turn_id: three.claim_id,
            "unknown": "fence",
        }
    )
    assert renewed == Renewed(frozenset({two.envelope.turn_id, "unknown"}), frozenset({three.envelope.turn_id}))
    for claim in (one, three):
        assert 14 < await deadline_s(partition, claim.envelope.turn_id) <= 15.01
    assert await partition.queue.expired(epoch=1) == []
    assert await partition.connection.call("HGET", partition.keys.slots, "worker") == b"7"


async def test_another_claim_of_the_turn_renews_nothing(partition, renewal):
    claim = await partition.running(await partition.admitted())
    await partition.let_lease_expire(claim.envelope.turn_id)
    lost = frozenset({claim.envelope.turn_id})
    assert renewal.renew({claim.envelope.turn_id: "another"}) == Renewed(lost, frozenset())
    assert len(await partition.queue.expired(epoch=1)) == 1


async def test_the_lease_of_a_host_that_lives_on_is_renewed(partition, renewal):
    claim = await partition.running(await partition.admitted())
    await partition.finish(claim, TurnState.CANCELLED, lingers=True)
    await partition.let_lease_expire(claim.envelope.turn_id)
    assert renewal.renew({claim.envelope.turn_id: claim.claim_id}) == Renewed(frozenset(), frozenset())
    assert await deadline_s(partition, claim.envelope.turn_id) > 14
    await partition.queue.exited(claim.envelope.turn_id, claim.claim_id, epoch=1)
    assert renewal.renew({claim.envelope.turn_id: claim.claim_id}).lost == {claim.envelope.turn_id}


async def test_nothing_is_renewed_under_another_epoch(partition, renewal):
    claim = await partition.running(await partition.admitted())
    await partition.let_lease_expire(claim.envelope.turn_id)
    for epoch in (2, None):
        renewal.of_epoch[0] = epoch
        assert renewal.renew({claim.envelope.turn_id: claim.claim_id}) is None
    assert len(await partition.queue.expired(epoch=1)) == 1
    renewal.of_epoch[0] = 1
    assert renewal.renew({}) == Renewed(frozenset(), frozenset())
    await partition.connection.call("SCRIPT", "FLUSH")
    assert renewal.renew({claim.envelope.turn_id: claim.claim_id}) == Renewed(frozenset(), frozenset())
