"""What an operation yields, as server-sent events: ``item`` for each, then ``end``, or ``error``.

The head of the answer waits for the first item, or for 15 s: what fails before has the status of its error. A reader
that takes nothing stops the operation by its credit, and is cut when it has taken nothing for STALL_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from kdcube.gateway.errors import UNEXPECTED, Problem, problem
from kdcube.proc.bundles.calls import CallOutcome, CallStopped, Ended, RunningCall
from kdcube.protocol.errors import KDCubeError

KEEP_ALIVE_S = 15.0
STALL_S = 30.0

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_KEEP_ALIVE = b": keep-alive\n\n"
_END = b"event: end\ndata: {}\n\n"
_JSON = msgspec.json.Encoder()


class ItemStream:
    """An ASGI response. ``running`` starts the call and stops it when it is left."""

    def __init__(
        self,
        running: Callable[[], AbstractAsyncContextManager[RunningCall]],
        error_of: Callable[[CallOutcome], KDCubeError],
        request_id: str,
    ) -> None:
        self._running = running
        self._error_of = error_of
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._running() as call:
            items = await call.take(KEEP_ALIVE_S)
            if items == [] and call.outcome.result() != Ended():
                raise self._failure(call.outcome.result())
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            while items is None or items:
                await self._write(send, _KEEP_ALIVE if items is None else b"".join(map(_frame, items)))
                items = await call.take(KEEP_ALIVE_S)
            outcome = call.outcome.result()
            last = _END if outcome == Ended() else self._error(self._failure(outcome))
            await self._write(send, last, more=False)

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ClientDisconnect from None

    def _failure(self, outcome: CallOutcome) -> KDCubeError | ClientDisconnect:
        return ClientDisconnect() if outcome == CallStopped("gone") else self._error_of(outcome)

    def _error(self, error: KDCubeError | ClientDisconnect) -> bytes:
        if isinstance(error, ClientDisconnect):
            raise error
        return b"event: error\ndata: %b\n\n" % _JSON.encode(_told(problem(error) or UNEXPECTED, self._request_id))


def _told(problem: Problem, request_id: str) -> dict[str, object]:
    """The body that the error would have as an answer."""
    return msgspec.json.decode(bytes(problem.response(request_id).body))


def _frame(item: bytes) -> bytes:
    if b"\n" in item or b"\r" in item:  # white space between JSON's tokens, which would end the field
        item = item.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"event: item\ndata: %b\n\n" % item
