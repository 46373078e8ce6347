"""Accepting a turn: Valkey admits, PostgreSQL commits, then the client hears of it (rules 1 to 5)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import Conflict, NotFound, RateLimited, RequestError, Unavailable
from kdcube.gateway.limits import WORDS
from kdcube.gateway.turns.cancelling import Cancelling
from kdcube.postgres.database import RowRejected
from kdcube.postgres.records import Admission as Record
from kdcube.postgres.records import Admitted as Committed
from kdcube.postgres.records import ConversationRefused, Existing, Inserted
from kdcube.postgres.turns import Turns
from kdcube.protocol.errors import EpochMismatch, InvalidInput, StoreUnavailable
from kdcube.protocol.turns import ReceiptState, TurnEnvelope, TurnState, decode_envelope
from kdcube.redis.admission import ANYWHERE, Admission, Admitted, Delivered, Duplicate, Rejected, Unproven
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.queue import Queue
from kdcube.redis.rates import Left, Sender
from kdcube.redis.workers import Workers
from kdcube.telemetry.failpoints import hit
from kdcube.telemetry.instruments import Instruments
from kdcube.telemetry.logging import bind
from kdcube.telemetry.tracing import NO_TRACING, Tracing

_WAITING = frozenset({TurnState.QUEUED, TurnState.STEERING})
_RECEIPTS: Mapping[TurnState, ReceiptState] = {
    TurnState.STEERING: ReceiptState.ACCEPTED,
    TurnState.APPLIED: ReceiptState.APPLIED,
}

_LIMITED: Mapping[str, str] = {
    **WORDS,
    "user_queue_full": "Too many of your messages are waiting.",
}
_UNAVAILABLE: Mapping[str, str] = {
    "no_capacity": "No worker is there to run the turn.",
    "memory": "The system's memory is used up.",
    "queue_full": "Too many turns are waiting.",
    "backpressure": "The system is at its capacity.",
}

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An accepted turn. ``receipt`` is that of a steer. ``position`` 1 is next, 0 does not wait."""

    turn_id: str
    client_turn_id: str
    conversation_id: str
    position: int = 0
    eta_s: float | None = None
    receipt: ReceiptState | None = None
    duplicate: bool = False
    left: Left = ()
    """What is left of the sender's rates."""


class Accepting:
    """Accepts turns. An async context manager: what it has begun it finishes, whether or not the client waits."""

    def __init__(
        self,
        admission: Admission,
        queue: Queue,
        workers: Workers,
        turns: Turns,
        epochs: EpochWatch,
        cancelling: Cancelling,
        instruments: Instruments | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._instruments = instruments or Instruments()
        self._admission = admission
        self._queue = queue
        self._workers = workers
        self._turns = turns
        self._epochs = epochs
        self._cancelling = cancelling
        self._tracing = tracing
        self._under_way: set[asyncio.Task[Acceptance]] = set()
        self._rang = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def accept(self, envelope: TurnEnvelope, sender: Sender = ANYWHERE) -> Acceptance:
        """Returns when the turn is committed. Cancelling the caller does not cancel what has begun.

        Raises Conflict, NotFound, RateLimited, Unavailable (``outcome_unknown``: the turn may run), EpochMismatch, and
        StoreUnavailable when nothing was begun because a store is known to be away.
        """
        task = asyncio.create_task(self._counted(envelope, sender))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _counted(self, envelope: TurnEnvelope, sender: Sender) -> Acceptance:
        accepted = await self._accept(envelope, sender)
        outcome = "duplicate" if accepted.duplicate else "admitted" if accepted.receipt is None else "delivered"
        self._instruments.counter("admissions", outcome=outcome, user_type=envelope.user_type).add()
        return accepted

    async def _accept(self, envelope: TurnEnvelope, sender: Sender) -> Acceptance:
        bind(turn_id=envelope.turn_id)
        await self._turns.available()
        epoch, nonce = self._epochs.current, secrets.token_hex(8)
        try:
            with self._tracing.begin("turn.admit", envelope.trace):
                outcome = await self._admission.admit(envelope, epoch=epoch, nonce=nonce, sender=sender)
            if isinstance(outcome, Unproven):
                known = await self._turns.get(envelope.turn_id)
                if known is not None and known.state not in _WAITING:
                    if known.content_hash != envelope.content_hash:
                        raise _other_content()
                    return await self._attached(envelope, known.state, outcome.left)
                outcome = await self._admission.admit(envelope, epoch=epoch, nonce=nonce, sender=sender, proven=True)
            await hit("ingress.accept.admitted")
        except EpochMismatch:
            self._epochs.suspect()
            raise
        except StoreUnavailable as error:
            raise _outcome_unknown(error) from error
        match outcome:
            case Rejected():
                self._instruments.counter(
                    "admissions_refused", reason=outcome.reason, user_type=envelope.user_type
                ).add()
                refusal = _rejection(outcome)
                refusal.left = outcome.left
                raise refusal
            case Duplicate():
                return await self._repeat(envelope, outcome, epoch)
            case Unproven():
                raise AssertionError("a proven message is not asked about")
            case Admitted():
                record = Record(envelope, outcome.order, outcome.accepted_ms, interrupts=outcome.interrupts)
            case Delivered():
                record = Record(envelope, outcome.order, outcome.accepted_ms, steer_of=outcome.steers)
        try:
            committed = await self._commit(record)
        except RowRejected as error:
            await self._withdraw(envelope, epoch, nonce, sender)
            raise InvalidInput("message", "the message holds what cannot be stored") from error
        match committed:
            case Inserted():
                return await self._admitted(envelope, outcome, committed)
            case ConversationRefused():
                await self._withdraw(envelope, epoch, nonce, sender)
                raise _no_conversation()
            case Existing(order=outcome.order):  # a repeat, or the worker, was faster to commit this admission
                return await self._admitted(envelope, outcome, committed)
            case Existing():
                same = committed.content_hash == envelope.content_hash
                if not same or committed.state not in _WAITING:
                    # Does nothing to an admission that a worker has claimed: then the row is that worker's.
                    await self._withdraw(envelope, epoch, nonce, sender)
                if not same:
                    raise _other_content()
                return await self._attached(envelope, committed.state, outcome.left)

    async def _admitted(
        self, envelope: TurnEnvelope, outcome: Admitted | Delivered, committed: Inserted | Existing
    ) -> Acceptance:
        ids = (envelope.turn_id, envelope.client_turn_id, envelope.conversation_id)
        if isinstance(outcome, Admitted):
            if outcome.interrupts:
                await self._cancelling.interrupted(outcome.interrupts, envelope.user_id, ended=_interrupted(committed))
            return Acceptance(*ids, position=outcome.position, eta_s=outcome.eta_s, left=outcome.left)
        if committed.state is TurnState.CANCELLED:  # the turn that it steers was cancelled in the meantime
            ended = isinstance(committed, Inserted)
            await self._cancelling.interrupted(envelope.turn_id, envelope.user_id, ended=ended)
            return Acceptance(*ids, receipt=ReceiptState.CANCELLED, left=outcome.left)
        return Acceptance(*ids, receipt=_RECEIPTS.get(committed.state, ReceiptState.ACCEPTED), left=outcome.left)

    async def _repeat(self, envelope: TurnEnvelope, found: Duplicate, epoch: int) -> Acceptance:
        """The same message was admitted before; whoever did that may not have lived to commit it."""
        if found.envelope is None:
            return await self._attached(envelope, found.state, found.left)
        original = decode_envelope(found.envelope)
        record = Record(original, found.order, found.accepted_ms, steer_of=found.steers, interrupts=found.interrupts)
        committed = await self._commit(record)
        if isinstance(committed, ConversationRefused):
            raise _no_conversation()
        if found.interrupts:
            await self._cancelling.interrupted(found.interrupts, envelope.user_id, ended=_interrupted(committed))
        position, eta_s = await self._position(original.turn_id, epoch)
        return Acceptance(
            original.turn_id,
            original.client_turn_id,
            original.conversation_id,
            position=position,
            eta_s=eta_s,
            receipt=ReceiptState.ACCEPTED if found.steers else None,
            duplicate=True,
            left=found.left,
        )

    async def _attached(self, envelope: TurnEnvelope, state: TurnState, left: Left) -> Acceptance:
        """The turn that PostgreSQL has under this id."""
        turn = await self._turns.get(envelope.turn_id, envelope.user_id)
        if turn is None:  # handed over with its conversation when its anonymous owner signed in
            raise NotFound("The turn under this key is another user's now.", error="turn_handed_over")
        return Acceptance(
            turn.turn_id,
            turn.client_turn_id,
            turn.conversation_id,
            receipt=_RECEIPTS.get(state),
            duplicate=True,
            left=left,
        )

    async def _commit(self, record: Record) -> Committed:
        try:
            with self._tracing.begin("turn.commit", record.envelope.trace):
                committed = await self._turns.admit(record)
            await hit("ingress.accept.committed")
        except StoreUnavailable as error:
            raise _outcome_unknown(error) from error
        self._ring()
        return committed

    def _ring(self) -> None:
        """For the worker: not before the commit, as it would find no row, and once for all turns of a commit."""
        if not self._rang:
            self._rang = True
            self._workers.ring()
            asyncio.get_running_loop().call_soon(self._ring_again)

    def _ring_again(self) -> None:
        self._rang = False

    async def _withdraw(self, envelope: TurnEnvelope, epoch: int, nonce: str, sender: Sender) -> None:
        """Failures are only logged: START refuses what PostgreSQL has refused."""
        try:
            await self._admission.withdraw(envelope, epoch=epoch, nonce=nonce, sender=sender)
        except (EpochMismatch, StoreUnavailable) as error:
            logger.warning("admission.not_withdrawn", turn_id=envelope.turn_id, reason=str(error))

    async def _position(self, turn_id: str, epoch: int) -> tuple[int, float | None]:
        try:
            (place,) = await self._queue.positions([turn_id], epoch=epoch)
        except (EpochMismatch, StoreUnavailable):
            return 0, None  # the turn is safe, its place is a courtesy
        return place.position, place.eta_s


def _rejection(rejected: Rejected) -> RequestError:
    reason = rejected.reason
    if reason in _LIMITED:
        return RateLimited(_LIMITED[reason], retry_after_s=rejected.retry_after_s, error=reason)
    if reason in _UNAVAILABLE:
        return Unavailable(_UNAVAILABLE[reason], retry_after_s=rejected.retry_after_s, error=reason)
    if reason == "conversation_not_found":
        return _no_conversation()
    if reason == "conversation_busy":
        busy = Conflict("The conversation is busy with another turn.", error=reason)
        busy.retry_after_s = rejected.retry_after_s
        return busy
    return _other_content()


def _no_conversation() -> NotFound:
    return NotFound("There is no such conversation.", error="conversation_not_found", field="message.conversation_id")


def _other_content() -> Conflict:
    return Conflict("Another message was sent under the same key.", error="idempotency_conflict")


def _outcome_unknown(error: StoreUnavailable) -> Unavailable:
    logger.warning("accept.outcome_unknown", reason=str(error))
    return Unavailable(
        "Whether the message was accepted is not known: send it again with the same key (Idempotency-Key or turn_id).",
        error="outcome_unknown",
    )


def _interrupted(committed: Committed) -> bool:
    """Whether this commit, and no earlier one, ended what the message interrupts."""
    return isinstance(committed, Inserted) and committed.interrupted
