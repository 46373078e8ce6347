"""Grouped commits: one at a time, each caller its own result, nobody harmed by another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kdcube.postgres.database import RowRejected
from kdcube.postgres.groupcommit import GroupCommit
from kdcube.protocol.errors import StoreUnavailable

pytestmark = pytest.mark.anyio


class Store:
    """A commit that a test lets go; the result of an item is its double."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.began = asyncio.Semaphore(0)
        self.under_way = 0
        self.most_under_way = 0
        self.failure: Exception | None = None

    async def commit(self, batch: list[Any]) -> list[Any]:
        self.batches.append(batch)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.began.release()
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if self.failure is not None:
            raise self.failure
        if "bad" in batch:
            raise RowRejected("bad")
        return [item * 2 for item in batch]


async def ready(tasks: int = 1) -> None:
    """Lets what was just started run until it waits."""
    for _ in range(3 * tasks):
        await asyncio.sleep(0)


async def test_what_arrives_meanwhile_goes_together() -> None:
    store = Store()
    async with GroupCommit(store.commit, max_batch=100) as group:
        first = asyncio.create_task(group.submit(1))
        await store.began.acquire()
        others = [asyncio.create_task(group.submit(n)) for n in (2, 3, 4)]
        await ready()
        assert store.batches == [[1]]
        store.gate.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert store.batches == [[1], [2, 3, 4]]
    assert store.most_under_way == 1


async def test_a_batch_has_a_bound() -> None:
    store = Store()
    store.gate.set()
    async with GroupCommit(store.commit, max_batch=4) as group:
        assert await asyncio.gather(*(group.submit(n) for n in range(10))) == [n * 2 for n in range(10)]
    assert [len(batch) for batch in store.batches] == [4, 4, 2]


async def test_two_may_be_under_way() -> None:
    store = Store()
    async with GroupCommit(store.commit, max_batch=1, under_way=2) as group:
        tasks = [asyncio.create_task(group.submit(n)) for n in range(3)]
        await store.began.acquire()
        await store.began.acquire()
        assert store.under_way == 2
        store.gate.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
    assert store.most_under_way == 2


async def test_a_bad_item_harms_no_other() -> None:
    store = Store()
    store.gate.set()
    async with GroupCommit(store.commit, max_batch=10) as group:
        results = await asyncio.gather(*(group.submit(item) for item in (1, "bad", 3)), return_exceptions=True)
    assert [results[0], results[2]] == [2, 6]
    assert isinstance(results[1], RowRejected)
    assert store.batches == [[1, "bad", 3], [1], ["bad"], [3]]


@pytest.mark.parametrize("failure", [StoreUnavailable("postgres", "gone"), ValueError("a bug")])
async def test_a_failure_goes_to_all_callers_and_the_next_batch_is_tried(failure: Exception) -> None:
    store = Store()
    store.gate.set()
    async with GroupCommit(store.commit, max_batch=10) as group:
        store.failure = failure
        results = await asyncio.gather(group.submit(1), group.submit(2), return_exceptions=True)
        assert results == [failure, failure]
        store.failure = None
        assert await group.submit(3) == 6


async def test_a_cancelled_caller_breaks_nothing_and_its_item_is_committed() -> None:
    store = Store()
    async with GroupCommit(store.commit, max_batch=10) as group:
        running = asyncio.create_task(group.submit(1))
        await store.began.acquire()
        waiting = [asyncio.create_task(group.submit(n)) for n in (2, 3)]
        await ready()
        running.cancel()
        waiting[0].cancel()
        await ready()
        store.gate.set()
        assert await waiting[1] == 6
        assert running.cancelled()
    assert store.batches == [[1], [2, 3]]


async def test_leaving_commits_what_waits_and_then_refuses() -> None:
    store = Store()
    group = GroupCommit(store.commit, max_batch=1)
    async with group:
        tasks = [asyncio.create_task(group.submit(n)) for n in (1, 2)]
        await store.began.acquire()
        store.gate.set()
    assert [await task for task in tasks] == [2, 4]
    with pytest.raises(StoreUnavailable):
        await group.submit(3)


async def test_leaving_by_cancellation_abandons_and_says_so() -> None:
    store = Store()
    group = GroupCommit(store.commit, max_batch=1)
    tasks: list[asyncio.Task[Any]] = []

    async def own() -> None:
        async with group:
            tasks.extend(asyncio.create_task(group.submit(n)) for n in (1, 2))
            await store.began.acquire()

    owner = asyncio.create_task(own())
    await ready(2)
    owner.cancel()
    results = await asyncio.gather(owner, *tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [type(result) for result in results[1:]] == [StoreUnavailable, StoreUnavailable]
