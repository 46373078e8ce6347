"""One call of an operation in a host: the handler's task between the wire and its context. ``kdcube.sdk.testing`` runs
this too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar, cast

import msgspec

from kdcube.protocol.trace_context import TraceContext
from kdcube.sdk.context import OperationContext, Refused
from kdcube.sdk.explaining import explain, refusal_in, unreadable_in
from kdcube.sdk.operations import InvalidData, Operations
from kdcube.sdk.turn import json_bytes
from kdcube.sdk.wire import (
    CREDIT_BYTES,
    MAX_EVENT_BYTES,
    MAX_STATE_BYTES,
    AcceptedTurn,
    AskConversation,
    AskTurn,
    Call,
    CallCredit,
    Conversation,
    Item,
    Returned,
    Told,
)

T = TypeVar("T")

_ITEMS_PER_TICK = 64
"""After so many items a handler that never waits lets the loop go round, so that others and the wire go on."""


class TooLarge(Exception):
    """What the operation gives is larger than may be."""


class CallRun:
    """Runs an operation for one Call. The last thing it sends is Returned."""

    def __init__(self, operations: Operations, call: Call, send: Callable[[Any], None]) -> None:
        self._call = call
        self._send = send
        self._requests = _Requests(call.call, send)
        self._cancelled = False
        self._unacknowledged = 0
        self._room: asyncio.Event = asyncio.Event()
        self._returned: Returned | None = None
        self.task = asyncio.get_running_loop().create_task(self._handle(operations), name=f"operation {call.operation}")
        self.task.add_done_callback(self._finish)

    def receive(self, message: CallCredit | Told) -> None:
        """What proc says about this call."""
        if isinstance(message, Told):
            self._requests.answered(message)
        else:
            self._unacknowledged = max(0, self._unacknowledged - message.n_bytes)
            self._room.set()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True
        self.task.cancel()

    async def _handle(self, operations: Operations) -> None:
        call = self._call
        taken = operations.by_name.get(call.operation)
        if taken is None:
            self._returned = Returned(call.call, "unknown")
            return
        context = OperationContext(
            call.user, call.config, call.secrets, call.unreadable, call.request_id, self._requests, _trace(call)
        )
        try:
            arguments = taken.arguments(call.data)
            if taken.described.streams:
                await self._stream(taken.operation.handler(context, *arguments))
                self._returned = Returned(call.call, "ended")
            else:
                answer = await cast("Any", taken.operation.handler(context, *arguments))
                data = _encoded("the operation's answer", answer, MAX_STATE_BYTES)
                self._returned = Returned(call.call, "answered", data)
        except InvalidData as error:
            self._returned = Returned(call.call, "invalid", message=error.message, field=error.field)
        except TooLarge as error:
            self._returned = Returned(call.call, "too_large", detail=str(error))
        except asyncio.CancelledError:
            if not self._cancelled:
                self._fail(RuntimeError("the operation was cancelled by its own code"))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a bundle raises ends its own call, reported
            self._fail(error)

    async def _stream(self, items: Any) -> None:
        async with aclosing(items) as each:
            sent = 0
            async for item in each:
                data = _encoded("an item", item, MAX_EVENT_BYTES)
                while self._unacknowledged + len(data) > CREDIT_BYTES:
                    self._room.clear()
                    await self._room.wait()
                self._unacknowledged += len(data)
                self._send(Item(self._call.call, data))
                sent += 1
                if sent % _ITEMS_PER_TICK == 0:
                    await asyncio.sleep(0)

    def _fail(self, raised: BaseException) -> None:
        number = self._call.call
        refused = refusal_in(raised)
        if refused is not None and refused.request:
            self._returned = Returned(
                number, "refused", code=refused.code, message=refused.user_message, refused=refused.request
            )
            return
        error, detail = explain(raised)
        secret = unreadable_in(raised)
        how = "no_secret" if secret and detail else "crashed" if detail else "failed"
        self._returned = Returned(
            number, how, code=error.code, message=error.user_message, field=secret.name if secret else "", detail=detail
        )

    def _finish(self, _task: asyncio.Task[None]) -> None:
        self._requests.close()
        if self._returned is None or self._cancelled:
            self._returned = Returned(self._call.call, "cancelled")
        self._send(self._returned)


class _Requests:
    """What a call asks of proc."""

    def __init__(self, call: int, send: Callable[[Any], None]) -> None:
        self._call = call
        self._send = send
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._numbers = 0
        self._closed = False

    async def conversation(self, conversation_id: str) -> Conversation | None:
        if not isinstance(conversation_id, str):
            raise TypeError(f"conversation takes an id, a str, not {type(conversation_id).__name__}")
        return await self._ask(lambda request: AskConversation(self._call, request, conversation_id), Conversation)

    async def start_turn(
        self,
        text: str,
        conversation_id: str | None,
        payload: Mapping[str, Any],
        idempotency_key: str | None,
        policy: str | None,
    ) -> AcceptedTurn:
        if not isinstance(text, str):
            raise TypeError(f"start_turn takes the text of a message, a str, not {type(text).__name__}")
        plain: dict[str, Any] = msgspec.json.decode(json_bytes("payload", dict(payload), MAX_STATE_BYTES))
        accepted = await self._ask(
            lambda request: AskTurn(self._call, request, text, conversation_id, plain, idempotency_key, policy),
            AcceptedTurn,
        )
        assert accepted is not None
        return accepted

    async def _ask(self, message: Callable[[int], Any], answer: type[T]) -> T | None:
        if self._closed:
            raise ValueError("the operation has ended, nothing can be asked any more: await it before it returns")
        self._numbers += 1
        request = self._numbers
        future = self._waiting[request] = asyncio.get_running_loop().create_future()
        self._send(message(request))
        try:
            told = await future
        finally:
            self._waiting.pop(request, None)
        if told.code:
            raise Refused(
                told.code, told.message, field=told.field, retry_after_s=told.retry_after_s, request=told.request
            )
        return msgspec.convert(told.data, answer | None)

    def answered(self, told: Told) -> None:
        future = self._waiting.get(told.request)
        if future is not None and not future.done():
            future.set_result(told)

    def close(self) -> None:
        self._closed = True
        for future in self._waiting.values():
            future.cancel()


def _trace(call: Call) -> TraceContext:
    return TraceContext(call.traceparent, call.tracestate) if call.traceparent else TraceContext.new()


def _encoded(what: str, value: Any, limit_bytes: int) -> bytes:
    data = json_bytes(what, value)
    if len(data) > limit_bytes:
        raise TooLarge(
            f"{what} is {len(data)} bytes of JSON, over the limit of {limit_bytes}: send a reference instead"
        )
    return data
