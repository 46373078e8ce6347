"""What one proc does for all, under an advisory lock: the epoch, the reaper, the reconciler, the eraser, Valkey's
memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from kdcube.postgres.locks import SILENCE_LIMIT_S, Leadership
from kdcube.proc.eraser import Eraser
from kdcube.proc.reaper import Reaper
from kdcube.proc.reconciler import Reconciler
from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.redis.connection import Connection
from kdcube.redis.server import ServerFacts, server_facts
from kdcube.redis.workers import Workers

log = structlog.get_logger()

LOOK_EVERY_S = 0.5
RECONCILE_EVERY_S = 5.0
RENEW_EVERY_S = SILENCE_LIMIT_S / 4


class Leader:
    """Runs the maintenance of one partition while it holds the lock. ``duties`` run beside its rounds, each until it
    is cancelled: what takes long keeps no turn waiting.
    """

    def __init__(
        self,
        leadership: Leadership,
        *,
        connection: Connection,
        workers: Workers,
        reaper: Reaper,
        reconciler: Reconciler,
        eraser: Eraser,
        duties: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leadership = leadership
        self._connection = connection
        self._workers = workers
        self._reaper = reaper
        self._reconciler = reconciler
        self._eraser = eraser
        self._clock = clock
        self._next_reconcile = 0.0
        self._duties = duties or {}
        self._on_duty: list[asyncio.Task[None]] = []
        self.leads = False
        """Whether this proc held the lock when it looked last."""

    async def run(self) -> None:
        """Until cancelled. A store that is away is waited for; the lock may go to another proc meanwhile."""
        try:
            while True:
                try:
                    if await self._leads():
                        await self._once_as_leader()
                except (StoreUnavailable, EpochMismatch) as error:
                    self._reaper.hold_off()
                    log.warning("maintenance waits", error=str(error))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await self._leave_duties()
            await self._leadership.release()  # a proc that broke may still drain for long

    async def _leads(self) -> bool:
        """Whether this proc holds the lock; if so it is on duty, and only then. Raises what a duty ended with."""
        try:
            leads = await self._leadership.try_acquire()
        except BaseException:
            self.leads = False
            await self._leave_duties()
            raise
        self.leads = leads
        if not leads:
            await self._leave_duties()
        elif not self._on_duty:
            self._on_duty = [asyncio.create_task(duty(), name=name) for name, duty in self._duties.items()]
        for task in self._on_duty:
            if task.done():
                task.result()
        return leads

    async def _leave_duties(self) -> None:
        tasks, self._on_duty = self._on_duty, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _once_as_leader(self) -> None:
        """``once``; a round that takes long keeps the lock, or ends early without it."""
        work = asyncio.create_task(self.once())
        try:
            while not (await asyncio.wait({work}, timeout=RENEW_EVERY_S))[0]:
                if not await self._leadership.try_acquire():
                    return
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def once(self) -> None:
        """One round: first the epoch, then what has expired, then, every few seconds, what has drifted apart."""
        facts = await server_facts(self._connection)
        epoch = await self._reconciler.ensure_epoch(facts, on_rebuilt=self._reaper.hold_off)
        await self._reaper.reap(epoch)
        if self._clock() >= self._next_reconcile:
            self._next_reconcile = self._clock() + RECONCILE_EVERY_S
            await self._report_memory(facts)
            await self._reconciler.reconcile(epoch)
            await self._eraser.round(epoch)

    async def _report_memory(self, facts: ServerFacts) -> None:
        await self._workers.report_memory(facts.memory_share)
