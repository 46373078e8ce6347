"""One claimed turn, from its claim to its end: START, log, bundle host, end. PostgreSQL decides, Valkey follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from kdcube.postgres.records import (
    Admission,
    Ending,
    Finished,
    NotFinished,
    NotStarted,
    Started,
    StartRequest,
)
from kdcube.proc.bundles.jobs import (
    BundleUnavailable,
    Cancelled,
    Completed,
    Emit,
    Failed,
    HostLost,
    Outcome,
    Service,
    Steer,
    TurnJob,
    TurnTooLarge,
)
from kdcube.proc.bundles.seat import Seat, VersionGone
from kdcube.proc.bundles.turns import RunningTurn
from kdcube.proc.claimed import RETRY_S, ClaimedTurn, now_ms
from kdcube.proc.desk import Desk
from kdcube.proc.log_writer import LogWriter
from kdcube.proc.outcomes import as_history, told_before, verdict
from kdcube.proc.turn_spans import TurnSpans
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.events import Fold, Kind, encode_line
from kdcube.protocol.heads import encode_head
from kdcube.protocol.turns import TERMINAL, TurnState
from kdcube.redis.queue import Claim, Fenced
from kdcube.redis.steer import TakenSteer

log = structlog.get_logger()

FLUSH_S = 5.0
"""At an end with Valkey away, the log is waited for so long; the stored turn has everything."""
HOST_WAIT_S = 60.0
"""A turn that has started waits so long for a host of its bundle; then it fails (rule 25)."""


class Attempt:
    """Runs one claim. ``run`` returns when the turn has ended, was handed back, or is somebody else's."""

    def __init__(self, desk: Desk, claim: Claim, *, epoch: int, on_slot_free: Callable[[], None]) -> None:
        """``on_slot_free`` is called once, when the bundle host is done with the turn; ends may take longer."""
        self._desk = desk
        self._on_slot_free: Callable[[], None] | None = on_slot_free
        self._turn = ClaimedTurn(desk, claim, epoch)
        self.envelope = claim.envelope
        self.claim_id = claim.claim_id
        self._attempt = 0
        self._started_ms: int | None = None
        self._started_at = 0.0
        self._spoke = False
        self._delivered = False
        """The bundle may have begun: from here on the turn is not repeated without leave."""
        self._steers_wait = False
        self._steers: dict[str, TakenSteer] = {}
        self._seat: Seat | None = None
        self._running: RunningTurn | None = None
        self._writer: LogWriter | None = None
        self._stopped: asyncio.Future[Outcome | KDCubeError] = asyncio.get_running_loop().create_future()
        self._hand_back = False
        self._cancelled = False
        self._spans = TurnSpans(desk.tracing, self.envelope)
        try:  # at once: what is claimed next shall find the room that is left
            self._seat = desk.pool.seat(self.envelope.bundle_id)
        except BundleUnavailable as error:
            log.warning("turn handed back", turn_id=self.envelope.turn_id, reason=str(error))

    # --- what others tell it ------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """PostgreSQL has a cancel of this turn."""
        self._cancelled = True
        if self._running:
            self._running.cancel("cancelled")

    def hand_back(self) -> None:
        """The worker drains: the turn goes back to the queue if it has not started."""
        self._hand_back = True

    def interrupt(self, reason: str) -> None:
        """The turn must end now, as interrupted."""
        self._stop(HostLost("killed"))
        if self._running:
            self._running.cancel(reason)

    def lose(self) -> None:
        """The lease is lost: somebody else may decide about the turn. PostgreSQL's fence tells who does."""
        self._turn.lease_lost.set()
        self._stop(HostLost("lease_lost"))
        if self._running:
            self._running.abandon()

    async def take_steers(self) -> None:
        """Gives the steers of the inbox to the bundle."""
        if self._running is None:
            self._steers_wait = True
            return
        taken = await self._turn.until_done(
            "proc.steers",
            lambda: self._desk.steers.take(self.envelope, self.claim_id, epoch=self._desk.epoch_watch.current),
        )
        for steer in () if isinstance(taken, Fenced) else taken:
            if steer.envelope.turn_id not in self._steers:
                self._steers[steer.envelope.turn_id] = steer
                self._running.steer(Steer(steer.envelope.turn_id, steer.envelope.text, steer.envelope.payload))

    # --- the sink of the bundle host ----------------------------------------------------------------------------------

    def emit(self, frame: Emit) -> None:
        if not self._spoke:
            self._spoke = True
            self._desk.figures.spoke(self.envelope.bundle_id, time.monotonic() - self._started_at)
        if type(frame) is Service and frame.type == "turn.usage":
            self._desk.figures.used(self.envelope.bundle_id, frame.data)
        if self._writer:
            self._writer.write(frame)

    async def apply(self, steer_ids: list[str]) -> set[str]:
        """PostgreSQL first: what it commits as applied is handed to the bundle, nothing else."""
        # Repeated until it is known: a steer that was applied for a bundle which never had it would be lost.
        applied = await self._turn.until_done("proc.apply", lambda: self._commit_applied(steer_ids))
        if applied:
            await self._turn.until_done(
                "proc.applied",
                lambda: self._desk.steers.applied(
                    self.envelope, self.claim_id, sorted(applied), epoch=self._desk.epoch_watch.current
                ),
            )
        return applied

    async def _commit_applied(self, steer_ids: list[str]) -> set[str]:
        turns, turn_id = self._desk.turns, self.envelope.turn_id
        applied = await turns.apply_steers(turn_id, self.claim_id, steer_ids)
        if missing := [self._steers[steer] for steer in steer_ids if steer not in applied and steer in self._steers]:
            # The inbox may be ahead of the commit of the steer's own row, as a claim may be (rules 4 and 7).
            for steer in missing:
                await turns.admit(Admission(steer.envelope, steer.order, steer.accepted_ms, steer_of=turn_id))
            applied |= await turns.apply_steers(turn_id, self.claim_id, [steer.envelope.turn_id for steer in missing])
        return applied

    # --- the course of the turn ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            self._free_slot()
            self._spans.close()

    def _free_slot(self) -> None:
        if self._seat:
            self._seat.leave()
        if self._on_slot_free:
            self._on_slot_free()
            self._on_slot_free = None

    async def _run(self) -> None:
        seat = self._seat
        if self._hand_back or seat is None:
            await self._turn.release()
            return
        version = seat.version
        outcome = await self._commit_start(version)
        if isinstance(outcome, NotStarted):
            await self._turn.settle_unstarted(outcome)
            return
        self._attempt = outcome.attempt
        writer = await self._open_log(version)
        if writer is None:
            # Fenced between START and the log: nothing has run. Who fenced this claim has the turn in Valkey.
            await self._turn.take_back_start(self.claim_id)
            return
        self._writer = writer
        writing = asyncio.create_task(writer.run())
        try:
            end = await self._serve(outcome, seat)
            self._spans.bundle_ended(end)
            self._free_slot()
            await writer.flush(FLUSH_S)
        finally:
            writing.cancel()
        await self._end(end, writer.fold)

    async def _commit_start(self, version: str) -> Started | NotStarted:
        request = StartRequest(
            self.envelope,
            self._turn.claim.order,
            self._turn.claim.accepted_ms,
            self.claim_id,
            self._desk.worker_id,
            version,
            self._turn.epoch,
        )
        # The same claim gets the same answer: a lost reply is asked again while the lease holds.
        outcome = await self._turn.until_done("proc.start", lambda: self._desk.turns.start(request), while_leased=True)
        if isinstance(outcome, Started):
            self._started_ms = outcome.started_ms
            self._started_at = time.monotonic()
            waited_ms = outcome.started_ms - self._turn.claim.accepted_ms
            envelope = self.envelope
            self._desk.figures.started(envelope.bundle_id, envelope.user_type, outcome.attempt, waited_ms)
            self._spans.started(
                attempt=outcome.attempt,
                version=version,
                accepted_ms=self._turn.claim.accepted_ms,
                started_ms=outcome.started_ms,
            )
        return outcome

    async def _open_log(self, version: str) -> LogWriter | None:
        head = encode_head(self.envelope, version)
        line = encode_line(
            Kind.START,
            "chat.start",
            ts_ms=now_ms(),
            attempt=self._attempt,
            supersedes=self._attempt - 1 if self._attempt > 1 else None,
            data={"message": self.envelope.text, "bundle_id": self.envelope.bundle_id, "bundle_version": version},
        )
        opened = await self._turn.until_done(
            "proc.open",
            lambda: self._desk.queue.start(
                self.envelope,
                self.claim_id,
                epoch=self._desk.epoch_watch.current,
                attempt=self._attempt,
                head=head,
                line=line,
            ),
            while_leased=True,
        )
        if isinstance(opened, Fenced):
            return None
        if opened.cancelled:
            self._cancelled = True
        return LogWriter(
            self._desk.logs,
            self._desk.epoch_watch,
            self.envelope,
            self.claim_id,
            attempt=self._attempt,
            head=head,
            opened=opened,
            epoch=await self._desk.epoch_watch.wait_for(),  # another attempt may suspect it at this moment
            on_written=self._written,
            on_failed=self._stop,
        )

    async def _serve(self, started: Started, seat: Seat) -> Outcome | KDCubeError:
        """The bundle's part of the turn."""
        desk, envelope, turn_id = self._desk, self.envelope, self.envelope.turn_id
        history = told_before(envelope.history)
        if started.parent_turn_id is not None:
            before = await self._turn.until_done("proc.history", lambda: desk.turns.history(started.parent_turn_id))
            history = as_history(before)
        grant = await desk.grants(seat.release.entry)
        if self._cancelled:
            return Cancelled()
        if self._stopped.done():
            return self._stopped.result()
        job = TurnJob(
            envelope=envelope,
            attempt=self._attempt,
            history=history,
            state=started.conversation_state,
            config=grant.config,
            secrets=grant.secrets.values,
            unreadable=grant.secrets.unreadable,
            trace=self._spans.to_bundle(),
        )
        running = await self._hand_over(job, seat)
        if not isinstance(running, RunningTurn):
            return running
        self._running = running
        if self._turn.lease_lost.is_set():
            running.abandon()
        elif self._cancelled:
            running.cancel("cancelled")
        if self._attempt > 1:  # what the attempt before was given, its answer does not show any more
            for steer in await self._turn.until_done(
                "proc.again", lambda: desk.turns.steers(turn_id, TurnState.APPLIED)
            ):
                running.steer(Steer(steer.turn_id, steer.text, steer.payload))
        if self._steers_wait:  # some came since the claim
            await self.take_steers()
        await asyncio.wait({running.outcome, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            running.cancel("stopped")
            return self._stopped.result()
        return running.outcome.result()

    async def _hand_over(self, job: TurnJob, seat: Seat) -> RunningTurn | Outcome | KDCubeError:
        """To a bundle host, waiting for one while hosts that died are replaced: nothing of the turn has run yet."""
        deadline = time.monotonic() + HOST_WAIT_S
        while True:
            try:
                self._delivered = True
                return seat.start(job, self)
            except TurnTooLarge as error:
                return Failed("turn_too_large", str(error))
            except VersionGone:  # its log says that version: it starts again, as another attempt
                self._delivered = False
                return HostLost("crash")
            except BundleUnavailable as error:
                self._delivered = False
                if time.monotonic() >= deadline:
                    message = "The application is not available now; please try again."
                    return Failed("bundle_unavailable", message, detail=str(error))
            await asyncio.wait({self._stopped}, timeout=RETRY_S)
            if self._cancelled:
                return Cancelled()
            if self._stopped.done():
                return self._stopped.result()

    async def _end(self, outcome: Outcome | KDCubeError, fold: Fold) -> None:
        turn_id, claim_id, running = self.envelope.turn_id, self.claim_id, self._running
        state, error = verdict(outcome, self.envelope.bundle_id)
        if self._may_repeat(outcome):
            if running:  # the next attempt does not begin while code of this one may run
                await asyncio.shield(running.exited)
            if await self._turn.requeue(claim_id):
                await self._turn.release()
                return
            state, error = TurnState.CANCELLED, None  # or fenced: then PostgreSQL says so
        if isinstance(outcome, Completed | Failed) and (untaken := outcome.untaken_steers):
            # The bundle ended before it had them. The reconciler puts what becomes a turn into the queue.
            await self._turn.until_done(
                "proc.untaken", lambda: self._desk.turns.return_steers(turn_id, claim_id, untaken)
            )
        snapshot = fold.snapshot()
        ending = Ending(
            turn_id=turn_id,
            claim_id=claim_id,
            state=state,
            ended_ms=now_ms(),
            text_by_marker=snapshot.text,
            steps=snapshot.steps,
            services=snapshot.services,
            error=error,
            bundle_state=outcome.state if isinstance(outcome, Completed) else None,
            bundle_version=running and running.bundle_version,
            lingers=running is not None and not running.exited.done(),
        )
        finished = await self._turn.until_done("proc.finish", lambda: self._desk.turns.finish(ending))
        match finished:
            case Finished(_, discarded):
                self._measure(state, ending.ended_ms)
                self._spans.ended(state, error["code"] if error else None)
                line = terminal_line(
                    state,
                    ts_ms=ending.ended_ms,
                    attempt=self._attempt,
                    answer=fold.text(),
                    error=error,
                    services=snapshot.services,
                )
                said = self._writer.said if self._writer else None
                await self._turn.close(state, line, discarded, lingers=ending.lingers, said=said)
            case NotFinished(turn) if turn is not None and turn.state in TERMINAL:
                await self._turn.close_as(turn)
            case NotFinished(turn) if turn is not None and turn.state is TurnState.QUEUED:
                await self._turn.release()  # it was given back, and the reply was lost
            case _:
                log.info("the turn went on without this attempt", turn_id=turn_id)
        if ending.lingers and running is not None:
            await asyncio.shield(running.exited)
            await self._turn.until_done("proc.left", lambda: self._desk.turns.exited(turn_id))
            await self._turn.until_done(
                "proc.exited",
                lambda: self._desk.queue.exited(turn_id, claim_id, epoch=self._desk.epoch_watch.current),
            )

    def _measure(self, state: TurnState, ended_ms: int) -> None:
        ran_ms = None if self._started_ms is None else ended_ms - self._started_ms
        self._desk.figures.ended(self.envelope.bundle_id, state, ran_ms)

    def _may_repeat(self, outcome: Outcome | KDCubeError) -> bool:
        match outcome:
            case HostLost(reason):
                # A turn that reached a limit would only reach it again.
                repeatable = reason not in ("idle_limit", "wall_limit", "unresponsive_cancel")
            case Failed(retryable=retryable):
                repeatable = retryable
            case _:
                repeatable = False
        if not repeatable or not self._delivered:
            return repeatable
        return self._seat is not None and self._attempt < self._seat.max_attempts

    def _written(self, n_bytes: int) -> None:
        if self._running:
            self._running.credit(n_bytes)

    def _stop(self, reason: Outcome | KDCubeError) -> None:
        if not self._stopped.done():
            self._stopped.set_result(reason)
