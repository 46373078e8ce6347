"""What one proc does for all, under an advisory lock: the epoch, the reaper, the reconciler, the eraser, Valkey's
memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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
    """Runs the maintenance of one partition while it holds the lock."""

    def __init__(
        self,
        leadership: Leadership,
        *,
        connection: Connection,
        workers: Workers,
        reaper: Reaper,
        reconciler: Reconciler,
        eraser: Eraser,
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

    async def run(self) -> None:
        """Until cancelled. A store that is away is waited for; the lock may go to another proc meanwhile."""
        try:
            while True:
                try:
                    if await self._leadership.try_acquire():
                        await self._once_as_leader()
                except (StoreUnavailable, EpochMismatch) as error:
                    self._reaper.hold_off()
                    log.warning("maintenance waits", error=str(error))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await self._leadership.release()  # a proc that broke may still drain for long

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
