"""When expired leases are believed."""

from __future__ import annotations

import pytest

from kdcube.proc.reaper import Reaper
from kdcube.redis.queue import ExpiredLease

pytestmark = pytest.mark.anyio

LEASE_S = 15.0


class Clocks:
    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, 1_000_000.0

    def work(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class FakeQueue:
    lease_s = LEASE_S

    def __init__(self, clocks: Clocks) -> None:
        self.asked = 0
        self.takes_s = 0.0
        self._clocks = clocks

    async def expired(self, *, epoch: int) -> list[ExpiredLease]:
        self.asked += 1
        self._clocks.work(self.takes_s)
        return []


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def queue(clocks: Clocks) -> FakeQueue:
    return FakeQueue(clocks)


@pytest.fixture
def reaper(clocks: Clocks, queue: FakeQueue) -> Reaper:
    return Reaper(
        turns=None,  # type: ignore[arg-type]
        queue=queue,  # type: ignore[arg-type]
        logs=None,  # type: ignore[arg-type]
        max_attempts=lambda _: 1,
        clock=lambda: clocks.monotonic,
        wall_clock=lambda: clocks.wall,
    )


async def test_a_new_one_reaps_at_once(reaper: Reaper, queue: FakeQueue) -> None:
    await reaper.reap(1)
    assert queue.asked == 1


async def test_a_valkey_that_was_away_is_believed_after_a_lease(
    reaper: Reaper, queue: FakeQueue, clocks: Clocks
) -> None:
    reaper.hold_off()
    clocks.work(LEASE_S - 0.1)
    await reaper.reap(1)
    assert queue.asked == 0
    clocks.work(0.1)
    await reaper.reap(1)
    assert queue.asked == 1


async def test_a_machine_that_slept_lets_its_workers_renew_first(
    reaper: Reaper, queue: FakeQueue, clocks: Clocks
) -> None:
    clocks.wall += 3600  # the monotonic clock stood still
    await reaper.reap(1)
    clocks.work(LEASE_S - 0.1)
    await reaper.reap(1)
    assert queue.asked == 0
    clocks.work(0.1)
    await reaper.reap(1)
    assert queue.asked == 1


async def test_clocks_that_drift_a_little_hold_up_nothing(reaper: Reaper, queue: FakeQueue, clocks: Clocks) -> None:
    for _ in range(100):
        clocks.work(0.5)
        clocks.wall += 0.1
        await reaper.reap(1)
    assert queue.asked == 100
