"""What a worker does in the stores for a turn that it has claimed, step by step. PostgreSQL decides, Valkey follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from kdcube.postgres.records import Ending, NotStarted, StoredTurn
from kdcube.proc.desk import Desk
from kdcube.proc.outcomes import discarded_steers, line_of
from kdcube.protocol.cursors import Position
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import EpochMismatch, KDCubeError, StoreUnavailable
from kdcube.protocol.turns import TERMINAL, TurnState
from kdcube.redis.queue import Claim
from kdcube.telemetry import failpoints

log = structlog.get_logger()

BUSY_RETRY_S = 0.5
RETRY_S = 0.1

T = TypeVar("T")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class ClaimGivenUp(KDCubeError):
    """The lease ran out before the turn could start; the reaper settles it."""


class ClaimedTurn:
    """A turn under a claim, which was made in ``epoch``."""

    def __init__(self, desk: Desk, claim: Claim, epoch: int) -> None:
        self._desk = desk
        self.claim = claim
        self.envelope = claim.envelope
        self.turn_id = claim.envelope.turn_id
        self.claim_id = claim.claim_id
        self.epoch = epoch
        self.lease_lost = asyncio.Event()

    async def until_done(self, name: str, step: Callable[[], Awaitable[T]], *, while_leased: bool = False) -> T:
        """Repeats an idempotent step while a store is away. With ``while_leased``, gives up once the lease is lost.

        Raises ClaimGivenUp then: the turn is left to the reaper. ``name`` is that of the failpoints around the step.
        """
        while True:
            try:
                await failpoints.hit(f"{name}.before")
                done = await step()
                await failpoints.hit(f"{name}.after")
                return done
            except StoreUnavailable as error:
                log.warning("a store is away", turn_id=self.turn_id, error=str(error))
                await asyncio.sleep(RETRY_S)
            except EpochMismatch:
                self._desk.epoch_watch.suspect()
                await self._desk.epoch_watch.wait_for()
            if while_leased and self.lease_lost.is_set():
                raise ClaimGivenUp

    async def release(self) -> None:
        """Valkey: back to its place in the queue, if the claim is still the current one."""
        if await self.until_done(
            "proc.release",
            lambda: self._desk.queue.release(self.turn_id, self.claim_id, epoch=self._desk.epoch_watch.current),
        ):
            self._desk.figures.returned()

    async def close(
        self,
        state: TurnState,
        line: bytes,
        discarded: Sequence[str],
        *,
        lingers: bool = False,
        said: Position | None = None,
    ) -> None:
        """Valkey follows what PostgreSQL has decided."""
        await self.until_done(
            "proc.close",
            lambda: self._desk.queue.finish(
                self.envelope,
                None,
                epoch=self._desk.epoch_watch.current,
                state=state,
                line=line,
                discarded=discarded,
                lingers=lingers,
                said=said,
            ),
        )

    async def close_as(self, turn: StoredTurn) -> None:
        """``close`` what somebody else has ended."""
        discarded = await self.until_done("proc.discarded", lambda: discarded_steers(self._desk.turns, turn))
        await self.close(turn.state, line_of(turn), discarded)

    async def requeue(self, claim_id: str, epoch: int | None = None) -> bool:
        """PostgreSQL: running under ``claim_id`` becomes queued again, if ``epoch`` is current; True when it did."""
        return await self.until_done(
            "proc.requeue", lambda: self._desk.turns.requeue(self.turn_id, claim_id, epoch=epoch)
        )

    async def take_back_start(self, claim_id: str, epoch: int | None = None) -> bool:
        """``requeue`` of a START under which nothing has run. A turn that was cancelled meanwhile ends instead."""
        if await self.requeue(claim_id, epoch):
            return True
        turns = self._desk.turns
        ending = Ending(turn_id=self.turn_id, claim_id=claim_id, state=TurnState.CANCELLED, ended_ms=now_ms())
        turn = await self.until_done("proc.get", lambda: turns.get(self.turn_id))
        if turn and turn.cancel_requested and turn.claim_id == claim_id:
            await self.until_done("proc.finish", lambda: turns.finish(ending))
            turn = await self.until_done("proc.get", lambda: turns.get(self.turn_id))
        if turn and turn.state in TERMINAL:
            await self.close_as(turn)
        return False

    async def settle_unstarted(self, outcome: NotStarted) -> None:
        """PostgreSQL refused START: Valkey follows the row."""
        turn = outcome.turn
        log.info("turn not started", turn_id=self.turn_id, reason=outcome.reason)
        if outcome.reason == "stale_epoch":
            return  # the working state was rebuilt without this claim
        if turn is None:  # its conversation is not the user's, or is deleted
            line = terminal_line(
                TurnState.FAILED,
                ts_ms=now_ms(),
                attempt=0,
                answer="",
                error={"code": "conversation_not_found", "message": "The conversation does not exist."},
            )
            await self.close(TurnState.FAILED, line, ())
        elif turn.state in TERMINAL or turn.state is TurnState.APPLIED:  # the worker died before Valkey knew
            await self.close_as(turn)
        elif turn.state is TurnState.RUNNING and turn.claim_id is not None and turn.claim_id != self.claim_id:
            if not await self.until_done("proc.stands", self._stands):
                # This worker slept, or a replica that lags took over: the turn may well run under that claim.
                await asyncio.sleep(BUSY_RETRY_S)
                await self.release()
            # Valkey fenced that claim before its log was opened, so nothing ran under it: take its START back.
            elif await self.take_back_start(turn.claim_id, epoch=self.epoch):
                await self.release()
        else:  # another turn of the conversation still runs in PostgreSQL; its end is on its way
            await asyncio.sleep(BUSY_RETRY_S)
            await self.release()

    async def _stands(self) -> bool:
        """Whether the turn is under this claim, on the very server whose epoch the claim is of: asked in this order, as
        the answer of a replica that takes over in between does not count."""
        held = await self._desk.queue.holds(self.turn_id, self.claim_id)
        return held and await self._desk.epoch_watch.stands(self.epoch)
