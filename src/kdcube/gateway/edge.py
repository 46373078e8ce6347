"""What surrounds every request: its id, the headers of every response, errors in one shape, CORS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import TypeAlias

import structlog
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from kdcube.config.auth import Cors
from kdcube.gateway.errors import UNEXPECTED, Problem, RequestError, problem
from kdcube.gateway.exchange import Exchange, begin_exchange, told_by_client
from kdcube.gateway.rate_fields import NAMES, rate_fields
from kdcube.gateway.routing import route_of_scope
from kdcube.gateway.traffic import Traffic
from kdcube.telemetry.logging import bound
from kdcube.telemetry.tracing import NO_TRACING, Kind, Span, Tracing

PREFIX = "/chatbot/api"
"""Under which proxies and load balancers route to ingress; it answers without it as well."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

_UNTRACED = frozenset({"/health", "/ready", "/metrics", f"{PREFIX}/health", f"{PREFIX}/ready"})
"""What machines ask all the time."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


Shape: TypeAlias = Callable[[Problem, Scope], Response]
"""How a problem is told."""


class Edge:
    """The ASGI application around ``router``. ``shapes``: by the beginning of a path, how problems are told there.
    ``traffic`` measures, ``tracing`` records a span of each.
    """

    def __init__(
        self,
        router: Router,
        shapes: Mapping[str, Shape] | None = None,
        traffic: Traffic | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._router = router
        self._shapes = shapes or {}
        self._traffic = traffic
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id, trace = told_by_client(scope)
        tracing = NO_TRACING if scope["path"] in _UNTRACED else self._tracing
        span = tracing.begin(scope["method"], trace, Kind.SERVER)
        exchange = begin_exchange(scope, request_id, span.context)
        scope["app"] = self  # makes the router raise what it refuses, instead of answering by itself
        if scope["path"].startswith(PREFIX + "/"):
            scope["root_path"] = PREFIX
        started, status = False, 0
        began, traffic = perf_counter(), self._traffic

        async def send_with_headers(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                if traffic is not None:
                    traffic.answered(scope["method"], route_of_scope(scope), message["status"], perf_counter() - began)
                message = {**message, "headers": _all_headers(message["headers"], exchange)}
            await send(message)

        with bound(request_id=request_id, trace_id=span.context.trace_id):
            try:
                if _CONTROL.search(scope["path"]):  # a route would match with a line feed behind it, a pattern not
                    raise HTTPException(404)
                await self._router(scope, receive, send_with_headers)
            except ClientDisconnect:
                logger.info("http.client_gone", path=scope["path"])
            except Exception as error:
                if isinstance(error, RequestError) and error.left:
                    exchange.left = error.left
                told = problem(error)
                if told is None or started:
                    logger.exception("http.failed", method=scope["method"], path=scope["path"])
                elif told.status >= 500:
                    logger.warning("http.refused", path=scope["path"], error=told.error, reason=str(error))
                if started:
                    raise  # the server cuts the connection: the client must not take the rest for complete
                if traffic is not None and told is not None and told.status in (429, 503):
                    traffic.refused(told.error, told.status, exchange.user_type)
                await self._told(told or UNEXPECTED, scope, exchange)(scope, receive, send_with_headers)
            finally:
                if span.recording:
                    _describe(span, scope, exchange, status)
                span.end()

    def _told(self, problem: Problem, scope: Scope, exchange: Exchange) -> Response:
        path: str = scope["path"].removeprefix(PREFIX)
        for beginning, shape in self._shapes.items():
            if path.startswith(beginning):
                return shape(problem, scope)
        return problem.response(exchange.request_id)


def _describe(span: Span, scope: Scope, exchange: Exchange, status: int) -> None:
    """By the conventions of OpenTelemetry for HTTP. Path and query are left out, as they may name people."""
    route = route_of_scope(scope)
    span.rename(f"{scope['method']} {route}".strip())
    span.set({"http.request.method": scope["method"], "http.route": route, "kdcube.request_id": exchange.request_id})
    if exchange.user_type is not None:
        span.set({"kdcube.user_type": exchange.user_type.value})
    if status:
        span.set({"http.response.status_code": status})
    if status >= 500 or not status:
        span.fail(str(status or "no_answer"))


def _all_headers(given: Iterable[tuple[bytes, bytes]], exchange: Exchange) -> list[tuple[bytes, bytes]]:
    headers = [*given, *_HEADERS, (b"x-request-id", exchange.request_id.encode()), *rate_fields(exchange.left)]
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    if exchange.set_cookie is not None:
        headers.append((b"set-cookie", exchange.set_cookie.encode()))
    return headers


def with_cors(app: ASGIApp, cors: Cors) -> ASGIApp:
    """``app`` for the pages of the allowed origins; without any, for none but its own."""
    if not cors.allow_origins and cors.allow_origin_regex is None:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.allow_origins,
        allow_origin_regex=cors.allow_origin_regex,
        allow_credentials=cors.allow_credentials,
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        expose_headers=(*cors.expose_headers, "X-Request-ID", "Retry-After", *NAMES),
        max_age=cors.max_age,
    )


def allows_origin(cors: Cors) -> Callable[[str], bool]:
    """Whether a page of an origin may send requests that carry the user's cookies."""
    judge = CORSMiddleware(
        _nothing, allow_origins=cors.allow_origins, allow_origin_regex=cors.allow_origin_regex
    ).is_allowed_origin
    return lambda origin: cors.allow_credentials and judge(origin)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a middleware that only judges."""
