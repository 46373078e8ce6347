"""What one request and its response have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import UserType
from kdcube.redis.rates import Left

_KEY = "kdcube.exchange"
_SANE = re.compile(r"[A-Za-z0-9._:-]{8,64}")


@dataclass(slots=True)
class Exchange:
    """``request_id`` goes into the response, the log lines and the turn; ``set_cookie``, and what is ``left`` of the
    caller's rates, into the response.
    """

    request_id: str
    set_cookie: str | None = None
    left: Left = ()
    user_type: UserType | None = None
    """Of the caller, once that is known."""


def begin_exchange(scope: Scope) -> Exchange:
    """Keeps the client's X-Request-ID when it is sane."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    exchange = Exchange(given if _SANE.fullmatch(given) else new_id())
    scope[_KEY] = exchange
    return exchange


def exchange_of(request: Request) -> Exchange:
    return request.scope[_KEY]


def request_id_of(request: Request) -> str:
    return exchange_of(request).request_id
