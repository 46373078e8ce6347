"""The reaper: what a worker left behind when its lease ran out. PostgreSQL first, Valkey after it (rule 10)."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from kdcube.postgres.records import Ending, Finished, StoredTurn
from kdcube.postgres.turns import Turns
from kdcube.proc.outcomes import discarded_steers, line_of
from kdcube.proc.turn_figures import TurnFigures
from kdcube.protocol.cursors import Position
from kdcube.protocol.events import Fold
from kdcube.protocol.turns import TERMINAL, TurnState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.queue import ExpiredLease, Queue
from kdcube.telemetry.instruments import Instruments

log = structlog.get_logger()


class Reaper:
    """Settles turns whose lease has run out. ``max_attempts``: how often a bundle's turns may be started.

    A lease that has run out is not that of a worker which still works: that one stopped 3 s before, by its own clock,
    whatever kept it from Valkey. So whoever newly leads may reap at once. What is waited for is what makes leases lie:
    a Valkey that was away (another one may have taken over, with leases of long ago), and a machine that slept.
    """

    def __init__(
        self,
        *,
        turns: Turns,
        queue: Queue,
        logs: EventLogs,
        max_attempts: Callable[[str], int],
        figures: TurnFigures | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._turns = turns
        self._queue = queue
        self._logs = logs
        self._max_attempts = max_attempts
        self._figures = figures or TurnFigures(Instruments())
        self._clock = clock
        self._wall_clock = wall_clock
        self._ahead_s = wall_clock() - clock()
        self._not_before = 0.0

    def hold_off(self) -> None:
        """Workers get one full lease to renew before anything is reaped (rule 8)."""
        self._not_before = self._clock() + self._queue.lease_s

    def _slept(self) -> bool:
        """Whether this machine stood still since it was asked last: leases went on by Valkey's clock, work did not."""
        before, self._ahead_s = self._ahead_s, self._wall_clock() - self._clock()
        return self._ahead_s - before > self._queue.lease_s / 3

    async def reap(self, epoch: int) -> None:
        """Settles what has expired now."""
        if self._slept():
            self.hold_off()
        if self._clock() < self._not_before:
            return
        asked_at = self._clock()
        expired = await self._queue.expired(epoch=epoch)
        if expired and self._clock() - asked_at > self._queue.lease_s / 3:
            self.hold_off()  # Valkey stood still while it was asked: the leases may be as stale as the answer
            return
        for lease in expired:
            await self._settle(lease, epoch)

    async def _settle(self, lease: ExpiredLease, epoch: int) -> None:
        log.warning("lease expired", turn_id=lease.turn_id, state=lease.state)
        self._figures.expired(lease.state)
        if lease.state is TurnState.CLAIMED:
            # Valkey fences the claim; if its START was committed, whoever claims the turn next takes that back.
            await self._queue.release(lease.turn_id, lease.claim_id, epoch=epoch, only_expired=True)
            return
        turn = await self._turns.get(lease.turn_id)
        if turn is None:
            log.error("a running turn has no row", turn_id=lease.turn_id)
            return
        if turn.state is TurnState.RUNNING:
            turn = await self._end(turn, lease)
        if turn is not None and turn.state in TERMINAL:
            envelope = await self._turns.envelope(turn.turn_id)
            if envelope is not None:
                await self._turns.exited(turn.turn_id)  # with its worker, its host is gone
                discarded = await discarded_steers(self._turns, turn)
                await self._queue.finish(
                    envelope,
                    None,
                    epoch=epoch,
                    state=turn.state,
                    line=line_of(turn),
                    discarded=discarded,
                    said=await self._said(turn),
                )
                await self._queue.exited(turn.turn_id, lease.claim_id, epoch=epoch)
        elif turn is not None and turn.state is TurnState.QUEUED:
            await self._queue.release(turn.turn_id, lease.claim_id, epoch=epoch)

    async def _end(self, turn: StoredTurn, lease: ExpiredLease) -> StoredTurn | None:
        """Another attempt if the bundle allows one, else the end with what the log still tells. Returns the turn as it
        is now.

        Only under the claim whose lease has run out: the turn may run under another one by now.
        """
        claim_id = lease.claim_id
        if (
            turn.attempt < self._max_attempts(turn.bundle_id)
            and not turn.cancel_requested
            and await self._turns.requeue(turn.turn_id, claim_id)
        ):
            return await self._turns.get(turn.turn_id)
        snapshot = (await self.fold(turn.turn_id)).snapshot()
        state = TurnState.CANCELLED if turn.cancel_requested else TurnState.INTERRUPTED
        finished = await self._turns.finish(
            Ending(
                turn_id=turn.turn_id,
                claim_id=claim_id,
                state=state,
                ended_ms=time.time_ns() // 1_000_000,
                text_by_marker=snapshot.text,
                steps=snapshot.steps,
                services=snapshot.services,
                error=None
                if turn.cancel_requested
                else {"code": "worker_lost", "message": "The turn was interrupted."},
            )
        )
        if isinstance(finished, Finished):
            self._figures.ended(turn.bundle_id, state)
        return await self._turns.get(turn.turn_id)

    async def _said(self, turn: StoredTurn) -> Position:
        """Where the log ends if it says what is stored; a place where none ends if it does not. (A worker that had been
        stopped may have said more since its log was folded, or died before all that it stored was said.)"""
        fold = await self.fold(turn.turn_id)
        return Position(fold.incarnation, fold.offset if fold.snapshot().text == turn.text_by_marker else -1)

    async def fold(self, turn_id: str) -> Fold:
        """What a turn's log says."""
        fold = Fold(turn_id)
        while True:
            page = await self._logs.read(turn_id, fold.offset)
            fold.incarnation = page.incarnation
            if not page.lines:
                return fold
            fold.add_all(page.lines)
