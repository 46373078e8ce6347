"""Grouped commits: what arrives while a commit is under way goes together into the next one. No timers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from kdcube.postgres.database import RowRejected
from kdcube.protocol.errors import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Groups the items of concurrent callers into batches; at most ``under_way`` batches are being committed at a time.

    ``commit`` gets up to ``max_batch`` items and returns a result for each, in order; a batch is all or nothing. When
    it raises RowRejected, the items are committed one by one, so that a bad item harms no other; any other error goes
    to all callers of the batch. An item whose caller was cancelled is committed all the same. Leaving the context
    commits what still waits.
    """

    def __init__(self, commit: Callable[[list[T]], Awaitable[list[R]]], *, max_batch: int, under_way: int = 1) -> None:
        self._commit = commit
        self._max_batch = max_batch
        self._under_way = under_way
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._arrived = asyncio.Event()
        self._open = False
        self._committers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._open = True
        self._committers = [asyncio.create_task(self._run(), name="group-commit") for _ in range(self._under_way)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._arrived.set()
        try:
            await asyncio.gather(*self._committers)
        finally:
            for committer in self._committers:
                committer.cancel()
            self._refuse(self._waiting)

    async def submit(self, item: T) -> R:
        """Commits ``item`` with others and returns its own result. Raises what its commit raised."""
        if not self._open:
            raise StoreUnavailable("postgres", "closed")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return await future

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if not self._open:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
            try:
                await self._settle(batch)
            finally:
                self._refuse(batch)  # only when this task was cancelled is anybody left

    async def _settle(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._commit([item for item, _ in batch])
        except RowRejected as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:
                for one in batch:
                    await self._settle([one])
        except Exception as error:  # noqa: BLE001 - it is raised in every caller
            _fail(batch, error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    @staticmethod
    def _refuse(batch: list[tuple[T, asyncio.Future[R]]] | deque[tuple[T, asyncio.Future[R]]]) -> None:
        _fail(batch, StoreUnavailable("postgres", "the commit was abandoned"))


def _fail(batch: list[tuple[T, asyncio.Future[R]]] | deque[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
