"""Calls of operations in a bundle host: how they run, what they may ask for, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import structlog

from kdcube.proc.bundles.jobs import LostReason, TurnTooLarge
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.trace_context import TraceContext
from kdcube.sdk import wire

MAX_ASKED = 16
"""Requests of one call that may be under way at once."""
_FRAME_MARGIN_BYTES = 1024

_log = structlog.get_logger("kdcube.bundle")


@dataclass(frozen=True, slots=True)
class Answered:
    """``data`` is JSON."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """Everything has been yielded."""


@dataclass(frozen=True, slots=True)
class InvalidData:
    """The data is not what the operation takes. ``field`` is a path such as ``data.items[0].count``."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class CallFailed:
    """The operation failed in the bundle's own words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CallRefused:
    """What the operation asked for in the name of its caller was refused, and it let that pass."""

    error: KDCubeError


@dataclass(frozen=True, slots=True)
class CallCrashed:
    """The operation raised what it should not. ``detail`` is for the operator alone."""

    detail: str


@dataclass(frozen=True, slots=True)
class SecretMissing:
    """A secret that the operation needs cannot be read now. ``detail`` is for the operator."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class ResultTooLarge:
    """``detail`` is for the operator."""

    detail: str


@dataclass(frozen=True, slots=True)
class UnknownOperation:
    """The bundle has no such operation."""


Stop = Literal["gone", "over", "timeout", "drain"]
"""Why a call is stopped: its client has left, what proved who that is does not count any more, its time is over, or
this process is being stopped.
"""


@dataclass(frozen=True, slots=True)
class CallStopped:
    why: Stop


@dataclass(frozen=True, slots=True)
class CallLost:
    """Its host ended. Nobody knows how far it came."""

    reason: LostReason


CallOutcome = (
    Answered
    | Ended
    | InvalidData
    | CallFailed
    | CallRefused
    | CallCrashed
    | SecretMissing
    | ResultTooLarge
    | UnknownOperation
    | CallStopped
    | CallLost
)


class Asks(Protocol):
    """Does what an operation asks for, in the name of its caller. Both raise KDCubeError."""

    async def conversation(self, asked: wire.AskConversation) -> wire.Conversation | None: ...

    async def start_turn(self, asked: wire.AskTurn) -> wire.AcceptedTurn: ...


@dataclass(frozen=True, slots=True)
class CallJob:
    """One call, ready to run. ``data`` is JSON, or nothing; ``told`` is what an operation hears of a refusal."""

    operation: str
    data: bytes
    user: wire.User
    config: dict[str, Any]
    secrets: dict[str, str]
    unreadable: dict[str, str]
    request_id: str
    timeout_s: float
    asks: Asks
    told: Callable[[KDCubeError], wire.Told]
    trace: TraceContext | None = None
    """What the call's work belongs to."""


class RunningCall:
    """A call in a host. Settled once ``outcome`` is done; over once ``exited`` is.

    What it yields waits in ``items`` until it is taken; the host sends no more than the credit of that.
    """

    def __init__(
        self,
        number: int,
        job: CallJob,
        send: Callable[[Any], None],
        *,
        grace_s: float,
        on_unresponsive: Callable[[RunningCall], None],
    ) -> None:
        """``on_unresponsive``: the handler goes on for ``grace_s`` after it was told to stop."""
        loop = asyncio.get_running_loop()
        self.number = number
        self.outcome: asyncio.Future[CallOutcome] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self._job = job
        self._send = send
        self._grace_s = grace_s
        self._on_unresponsive = on_unresponsive
        self._items: list[bytes] = []
        self._taken_bytes = 0
        self._unacknowledged = 0
        self._news = asyncio.Event()
        self._stopping: Stop | None = None
        self._timer: asyncio.TimerHandle | None = loop.call_later(job.timeout_s, self.stop, "timeout")
        self._asking: set[asyncio.Task[None]] = set()
        self._refusals: dict[int, KDCubeError] = {}

    @classmethod
    def start(cls, number: int, job: CallJob, send: Callable[[Any], None], **options: Any) -> RunningCall:
        """Sends the call to its host. Raises TurnTooLarge."""
        trace = job.trace
        message = wire.encode_message(
            wire.Call(
                number,
                job.operation,
                job.data,
                job.user,
                job.config,
                job.secrets,
                job.unreadable,
                job.request_id,
                trace.traceparent if trace else "",
                trace.tracestate if trace else "",
            )
        )
        if len(message) > wire.MAX_FRAME_BYTES - _FRAME_MARGIN_BYTES:
            raise TurnTooLarge
        call = cls(number, job, send, **options)
        send(msgspec.Raw(message))
        return call

    @property
    def settled(self) -> bool:
        return self.outcome.done()

    def stop(self, why: Stop) -> None:
        """Asks the handler to stop. ``outcome`` follows within the grace, whatever the handler does."""
        if self.settled or self._stopping is not None:
            return
        self._stopping = why
        if why == "over":  # what has not gone on to the client stays here
            self._items.clear()
        self._cancel_timer()
        self._send(wire.CancelCall(self.number))
        self._timer = asyncio.get_running_loop().call_later(self._grace_s, self._unresponsive)

    # ---- what it yields

    async def take(self, timeout_s: float) -> list[bytes] | None:
        """What was yielded since, each as JSON; empty when nothing follows. None when nothing came in time.

        What was taken before is acknowledged, as it has gone on to the client by now.
        """
        if self._taken_bytes and not self.settled:
            self._send(wire.CallCredit(self.number, self._taken_bytes))
        self._unacknowledged -= self._taken_bytes
        self._taken_bytes = 0
        while not self._items and not self.settled:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return None
        items, self._items = self._items, []
        self._taken_bytes = sum(map(len, items))
        return items

    # ---- what the host says

    def item(self, data: bytes) -> bool:
        """False when that is more than the credit allows."""
        self._unacknowledged += len(data)
        if not self.settled and self._stopping != "over":
            self._items.append(data)
            self._news.set()
        return self._unacknowledged <= wire.CREDIT_BYTES

    def ask(self, asked: wire.AskConversation | wire.AskTurn) -> None:
        """The operation asks for something."""
        if self.settled:
            return
        task = asyncio.get_running_loop().create_task(self._answer(asked), name=f"asked by operation {self.number}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, asked: wire.AskConversation | wire.AskTurn) -> None:
        call, request, asks = asked.call, asked.request, self._job.asks
        if len(self._asking) > MAX_ASKED:
            self._send(wire.Told(call, request, None, "too_many_requests", f"At most {MAX_ASKED} requests at once."))
            return
        try:
            match asked:
                case wire.AskConversation():
                    found: Any = await asks.conversation(asked)
                case wire.AskTurn():
                    found = await asks.start_turn(asked)
            self._send(wire.Told(call, request, found))
        except KDCubeError as error:
            self._refusals[request] = error
            told = self._job.told(error)
            self._send(msgspec.structs.replace(told, call=call, request=request))
        except Exception:  # noqa: BLE001 - logged; the operation hears that it failed here
            _log.exception("operation_not_answered", operation=self._job.operation, request_id=self._job.request_id)
            self._send(wire.Told(call, request, None, "internal", "Something went wrong here."))

    def end(self, returned: wire.Returned, detail: str) -> None:
        """The handler has ended. ``detail`` is what of the traceback may be logged."""
        self.settle(self._outcome(returned, detail) if self._stopping is None else CallStopped(self._stopping))
        self.leave()

    def _outcome(self, returned: wire.Returned, detail: str) -> CallOutcome:
        match returned.how:
            case "answered":
                return Answered(returned.data)
            case "ended":
                return Ended()
            case "invalid":
                return InvalidData(returned.field, returned.message)
            case "failed":
                return CallFailed(returned.code, returned.message)
            case "refused" if returned.refused in self._refusals:
                return CallRefused(self._refusals[returned.refused])
            case "no_secret":
                return SecretMissing(returned.field, detail)
            case "too_large":
                return ResultTooLarge(detail)
            case "unknown":
                return UnknownOperation()
            case _:
                return CallCrashed(detail or f"the host said {returned.how!r}")

    # ---- the end

    def settle(self, outcome: CallOutcome) -> None:
        """Says how the call ended; the first outcome stands."""
        if not self.settled:
            self._cancel_timer()
            self.outcome.set_result(outcome)
            self._news.set()
            for task in self._asking:
                task.cancel()

    def leave(self) -> None:
        """No code of the call runs any more."""
        if not self.exited.done():
            self.exited.set_result(None)

    def _unresponsive(self) -> None:
        assert self._stopping is not None
        self.settle(CallStopped(self._stopping))
        self._on_unresponsive(self)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
