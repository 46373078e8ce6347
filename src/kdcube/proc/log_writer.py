"""Writes what a running turn says into its log: one write under way at a time, the rest goes together into the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import structlog

from kdcube.proc.bundles.jobs import Delta, Emit, Service, Step
from kdcube.protocol.cursors import Position
from kdcube.protocol.errors import EpochMismatch, KDCubeError, StoreUnavailable
from kdcube.protocol.events import Fold, Kind, encode_line
from kdcube.protocol.turns import TurnEnvelope
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.eventlog import LOG_MAX_BYTES, Appended, EventLogs, Full, Rewound
from kdcube.redis.queue import Opened
from kdcube.telemetry import failpoints

log = structlog.get_logger()

COALESCE_ABOVE = 64
"""With more events than this waiting, adjacent deltas of one marker become one: the log is behind the bundle."""
COALESCED_MAX_CHARS = 8192
BATCH_MAX_EVENTS = 512
BATCH_MAX_BYTES = 1024 * 1024
"""Of events that are not text: Valkey does nothing else while it takes a batch."""
_RETRY_S = 0.1

_json = msgspec.json.Encoder().encode


class OutputLimit(KDCubeError):
    """The turn has said more than a log may hold."""


class UnfitEvent(KDCubeError):
    """The bundle host sent an event that is no JSON. The SDK sends none."""


class ClaimLost(KDCubeError):
    """The claim is no longer the current one."""


@dataclass(frozen=True, slots=True)
class _Line:
    """An event that is not text, encoded as far as it can be before its time is known."""

    event: Step | Service
    members: bytes
    """``,"event":{...},"data":{...}``"""


class LogWriter:
    """The log of one attempt. ``failed`` is told once when nothing more can be written (OutputLimit, ClaimLost ...)."""

    def __init__(
        self,
        logs: EventLogs,
        epoch_watch: EpochWatch,
        envelope: TurnEnvelope,
        claim_id: str,
        *,
        attempt: int,
        head: bytes,
        opened: Opened,
        epoch: int,
        on_written: Callable[[int], None],
        on_failed: Callable[[KDCubeError], None],
    ) -> None:
        self._logs = logs
        self._epoch_watch = epoch_watch
        self._envelope = envelope
        self._claim_id = claim_id
        self._attempt = attempt
        self._head = head
        self._epoch = epoch
        self._tail = opened.tail
        self._incarnation = opened.incarnation
        self._said = opened.tail
        self._seq = 0
        self._delta_index = 0
        self._waiting: list[Delta | _Line] = []
        self._waiting_bytes = 0
        """Of events that are not text."""
        self._failed = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_written = on_written
        self._on_failed = on_failed
        self.fold = Fold(envelope.turn_id)
        """Everything that was handed to ``write``, as far as it was taken up."""
        self.fold.attempt = attempt
        self.fold.state = "running"

    @property
    def said(self) -> Position:
        """Where the log ends if it says everything that ``fold`` has."""
        return Position(self._incarnation, self._said)

    def write(self, frame: Emit) -> None:
        """Takes one event, in order. Never waits: what is held is bounded by the turn's byte credit, and for what needs
        none by what a log may hold in all.
        """
        if self._failed:
            return
        waiting = self._waiting
        if len(waiting) > COALESCE_ABOVE and isinstance(frame, Delta):
            last = waiting[-1]
            if isinstance(last, Delta) and last.marker == frame.marker and len(last.text) < COALESCED_MAX_CHARS:
                waiting[-1] = Delta(last.turn, last.text + frame.text, last.marker)
                return
        event = frame if isinstance(frame, Delta) else self._line(frame)
        if event is None:
            return
        waiting.append(event)
        if self._idle.is_set():
            self._idle.clear()
            self._wake.set()

    async def run(self) -> None:
        """Writes until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    await self._append(self._next_batch())
                self._idle.set()
        except (
            KDCubeError
        ) as error:  # also an answer of Valkey that nobody expects: the turn must not wait for its credit
            self._fail(error)

    def _fail(self, error: KDCubeError) -> None:
        if not self._failed:
            self._failed = True
            self._take_up()
            self._idle.set()
            self._on_failed(error)

    def _line(self, frame: Step | Service) -> _Line | None:
        members = b""
        try:
            if isinstance(frame, Step):
                members = b',"event":' + _json(frame.event)
            if frame.data is not None:
                members += b',"data":' + _json(frame.data)
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(UnfitEvent(str(error)))
            return None
        self._waiting_bytes += len(members)
        if self._waiting_bytes > LOG_MAX_BYTES:
            self._fail(OutputLimit())
            return None
        return _Line(frame, members)

    def _next_batch(self) -> list[Delta | _Line]:
        waiting, size, count = self._waiting, 0, 0
        for event in waiting[:BATCH_MAX_EVENTS]:
            size += 0 if isinstance(event, Delta) else len(event.members)
            if size > BATCH_MAX_BYTES and count:
                break
            count += 1
        self._waiting = waiting[count:]
        return waiting[:count]

    async def flush(self, timeout_s: float) -> None:
        """Waits until all is in the log, but no longer than ``timeout_s``: the fold has everything either way."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            self._take_up()

    def _take_up(self) -> None:
        """Folds what could not be written, for the stored turn."""
        waiting, self._waiting = self._waiting, []
        self._encode(waiting)

    async def _append(self, batch: list[Delta | _Line]) -> None:
        lines = self._encode(batch)
        self._seq += 1
        data = b"\n".join(lines)
        while True:
            try:
                await failpoints.hit("proc.append.before")
                outcome = await self._logs.append(
                    self._envelope.turn_id,
                    self._claim_id,
                    epoch=self._epoch,
                    seq=self._seq,
                    tail=self._tail,
                    count=len(lines),
                    lines=data,
                )
                await failpoints.hit("proc.append.after")
                if isinstance(outcome, Rewound):
                    outcome = await self._reopen()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            except EpochMismatch:
                self._epoch_watch.suspect()
                self._epoch = await self._epoch_watch.wait_for()
                continue
            match outcome:
                case Appended(tail):
                    self._tail = tail
                case Position(incarnation, offset):
                    self._incarnation, self._tail, self._said = incarnation, offset, offset
                case Full():
                    raise OutputLimit
                case _:
                    raise ClaimLost
            break
        self._on_written(sum(frame.n_bytes for frame in batch if isinstance(frame, Delta)))

    async def _reopen(self) -> object:
        """The log was lost or rolled back: a new incarnation says all that was said, this batch included."""
        log.warning("a log begins anew", turn_id=self._envelope.turn_id, incarnation=self._incarnation + 1)
        snapshot = self.fold.snapshot()
        snapshot.incarnation, snapshot.offset = self._incarnation + 1, 1
        line = encode_line(
            Kind.SNAPSHOT,
            "turn.snapshot",
            ts_ms=time.time_ns() // 1_000_000,
            attempt=self._attempt,
            data=msgspec.to_builtins(snapshot),
        )
        return await self._logs.reopen(
            self._envelope.turn_id,
            self._claim_id,
            epoch=self._epoch,
            seq=self._seq,
            line=line,
            head=self._head,
            incarnation=self._incarnation + 1,
        )

    def _encode(self, batch: list[Delta | _Line]) -> list[bytes]:
        ts_ms = time.time_ns() // 1_000_000
        stamp = datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds")
        # Deltas are nearly all of the traffic: their lines are put together from prepared bytes.
        prefix = (
            f'delta {{"type":"chat.delta","timestamp":"{stamp}","ts":{ts_ms},"attempt":{self._attempt},'
            '"delta":{"text":'
        ).encode()
        lines: list[bytes] = []
        fold = self.fold
        for frame in batch:
            if isinstance(frame, Delta):
                text = frame.text.replace("\0", "\ufffd")  # as PostgreSQL will store it
                lines.append(
                    b'%b%b,"marker":%b,"index":%d,"completed":false}}'
                    % (prefix, _json(text), _json(frame.marker), self._delta_index)
                )
                self._delta_index += 1
                fold.delta(frame.marker, text)
                continue
            self._waiting_bytes -= len(frame.members)
            event = frame.event
            kind, type_ = (Kind.STEP, "chat.step") if isinstance(event, Step) else (Kind.SERVICE, event.type)
            lines.append(
                b'%b {"type":%b,"timestamp":"%b","ts":%d,"attempt":%d%b}'
                % (kind.encode(), _json(type_), stamp.encode(), ts_ms, self._attempt, frame.members)
            )
            if isinstance(event, Step):
                fold.step(event.event)
            else:
                fold.service(event.type, event.data)
        self._said += len(lines)
        return lines
