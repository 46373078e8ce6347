"""Routes whose handlers are plain functions, with nothing between them and the edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

_ROUTE = "kdcube.route"

Handler: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]


class _Endpoint:
    """The handlers of one path by method, as ASGI: the edge sees what they raise, and nothing stands in between."""

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_ROUTE] = self._path
        method = scope["method"]
        handler = self._handlers["GET" if method == "HEAD" else method]
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


def route(path: str, **handlers: Handler) -> Route:
    """One route for all methods of a path, so that a refusal of another one can name them."""
    return Route(path, _Endpoint(path, handlers), methods=[*handlers])


def route_of_scope(scope: Scope) -> str:
    """As ``route_of``, for whoever has no request."""
    return scope.get(_ROUTE, "")


def route_of(request: Request) -> str:
    """The pattern of the route that serves a request; empty for one that ``route`` has not made."""
    return route_of_scope(request.scope)


async def no_route(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)
