"""What one request and its response have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from kdcube.protocol.ids import new_id
from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import UserType
from kdcube.redis.rates import Left

_KEY = "kdcube.exchange"
_SANE = re.compile(r"[A-Za-z0-9._:-]{8,64}")


@dataclass(slots=True)
class Exchange:
    """``request_id`` goes into the response, the log lines and the turn, as ``trace`` does into the lines and the turn;
    ``set_cookie``, and what is ``left`` of the caller's rates, into the response.
    """

    request_id: str
    trace: TraceContext
    set_cookie: str | None = None
    left: Left = ()
    user_type: UserType | None = None
    """Of the caller, once that is known."""


def begin_exchange(scope: Scope, request_id: str, trace: TraceContext) -> Exchange:
    exchange = Exchange(request_id, trace)
    scope[_KEY] = exchange
    return exchange


def told_by_client(scope: Scope) -> tuple[str, TraceContext | None]:
    """The client's X-Request-ID when it is sane, else a new one; and its trace context, if it has a good one."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    first = dict(reversed(headers))
    given = first.get(b"x-request-id", b"").decode("latin-1")
    trace = None
    if b"traceparent" in first and sum(name == b"traceparent" for name, _ in headers) == 1:
        states = [value.decode("latin-1") for name, value in headers if name == b"tracestate"]
        trace = TraceContext.parse(first[b"traceparent"].decode("latin-1"), ",".join(states))
    return (given if _SANE.fullmatch(given) else new_id()), trace


def exchange_of(request: Request) -> Exchange:
    return request.scope[_KEY]


def request_id_of(request: Request) -> str:
    return exchange_of(request).request_id
