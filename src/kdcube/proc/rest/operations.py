"""Operations of bundles by HTTP. See docs/operations.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.answers import json_response
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import Forbidden, NotFound, TooLarge, Unauthorised, Unavailable
from kdcube.gateway.exchange import exchange_of, request_id_of
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.limits import Limiter
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.reading import decode, read_body
from kdcube.gateway.turns.messages import RANK, may_use, unready
from kdcube.gateway.turns.taking import Taking
from kdcube.proc.bundles.calls import Answered, CallCrashed, CallJob, CallLost, CallOutcome, CallStopped, RunningCall
from kdcube.proc.bundles.host import BundleHost
from kdcube.proc.bundles.jobs import BundleUnavailable, TurnTooLarge
from kdcube.proc.bundles.pool import HostPool
from kdcube.proc.desk import BundleGrant
from kdcube.proc.rest.asking import Asked, told
from kdcube.proc.rest.endings import error_of
from kdcube.proc.rest.openapi import openapi_document
from kdcube.proc.rest.places import Places, PublicRate
from kdcube.proc.rest.running import RunningCalls
from kdcube.proc.rest.streaming import ItemStream
from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import UserType
from kdcube.sdk import wire
from kdcube.telemetry.instruments import Instruments
from kdcube.telemetry.tracing import Span, Tracing

RETRY_S = 2.0
"""What a client is told to wait while a bundle's host is being replaced."""
_TRIES = 3

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class CallBody(msgspec.Struct):
    """The body of a call. Members that are not known are ignored; ``data`` is looked at by the bundle's host."""

    data: msgspec.Raw = msgspec.Raw(b"")


_BODY = msgspec.json.Decoder(CallBody)
_NOBODY = wire.User("", UserType.ANONYMOUS.value)


@dataclass(frozen=True, slots=True)
class Found:
    """What a path names."""

    entry: BundleEntry
    host: BundleHost
    operation: wire.Operation

    @property
    def public(self) -> bool:
        """Whether nobody needs to sign in. What the registry asks for goes before what the bundle says."""
        return self.operation.public and self.entry.required_user_type is None

    def allows(self, caller: Caller | None) -> bool:
        if caller is None:
            return self.public
        required = self.operation.required_user_type
        return may_use(caller, self.entry) and (required is None or RANK[caller.user_type] >= RANK[UserType(required)])


class OperationRoutes:
    """``/integrations/bundles/*``."""

    def __init__(
        self,
        *,
        scope: tuple[str, str],
        live: LiveGateway,
        callers: Callers,
        limiter: Limiter,
        public_rate: PublicRate,
        places: Places,
        pool: HostPool,
        bundles: LiveBundles,
        grants: Callable[[BundleEntry], Awaitable[BundleGrant]],
        taking: Taking,
        instruments: Instruments,
        tracing: Tracing,
    ) -> None:
        self._scope = scope
        self._live = live
        self._callers = callers
        self._limiter = limiter
        self._public_rate = public_rate
        self._places = places
        self._pool = pool
        self._bundles = bundles
        self._grants = grants
        self._taking = taking
        self._instruments = instruments
        self.running = RunningCalls()
        self._tracing = tracing
        self.draining = False

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._places.waiting

    async def drain(self, timeout_s: float) -> None:
        """Takes no more, lets what runs finish within ``timeout_s``, and stops the rest."""
        self.draining = True
        await self.running.drain(timeout_s)

    # ---- calls

    async def call(self, request: Request) -> ASGIApp:
        """``POST …/operations/{operation}``."""
        if self.draining:
            raise _draining()
        entry, name = self._entry(request), request.path_params["operation"]
        found = None if entry is None else self._find(entry, name)
        public = isinstance(found, Found) and found.public
        caller = await (self._callers.identify_if_any(request) if public else self._callers.identify(request))
        if entry is None:
            raise self._unready(request) or _no_operation()
        if found is None:
            raise _no_operation()
        _check(may_use(caller, entry) if caller else public, entry)
        if isinstance(found, BundleUnavailable):
            raise _unavailable(found)
        _check(found.allows(caller), found.operation)
        if public:
            await self._public_rate.count(request, caller)
        body = await read_body(request, self._live.current.limits.proc.max_body_bytes)
        data = bytes(decode(body, _BODY).data) if body else b""
        if found.operation.streams:
            return ItemStream(
                lambda: self._run(request, found, caller, data),
                lambda outcome: error_of(outcome, entry.id, name),
                request_id_of(request),
            )
        async with self._run(request, found, caller, data) as call:
            outcome = await asyncio.shield(call.outcome)
        match outcome:
            case Answered(answer):
                return Response(b'{"%b":%b}' % (name.encode(), answer), media_type="application/json")
            case CallStopped("gone"):
                raise ClientDisconnect
            case _:
                raise error_of(outcome, entry.id, name)

    @asynccontextmanager
    async def _run(
        self, request: Request, found: Found, caller: Caller | None, data: bytes
    ) -> AsyncGenerator[RunningCall]:
        """Runs the call as long as its client is there; it has its place until no code of it runs, or for a grace."""
        who = self._public_rate.address(request) if caller is None else caller.user_id
        async with self._places.entered(found.entry, who):
            began = time.perf_counter()
            trace = exchange_of(request).trace
            with self._tracing.begin("operation.bundle", trace) as span:
                call = await self._start(request, found, caller, data, span.context)
                with self.running.entered(call, caller if found.operation.streams else None):
                    gone = asyncio.create_task(_left(request, call), name=f"client of operation {call.number}")
                    try:
                        yield call
                    finally:
                        gone.cancel()
                        call.stop("gone")
                        outcome = await asyncio.shield(call.outcome)
                        _describe(span, found, outcome)
                self._instruments.histogram(
                    "operation_seconds", bundle=found.entry.id, outcome=type(outcome).__name__
                ).observe(time.perf_counter() - began)

    async def _start(
        self, request: Request, found: Found, caller: Caller | None, data: bytes, trace: TraceContext
    ) -> RunningCall:
        """On a host that is there now: it may have waited for its place, and secrets may have to be read."""
        unavailable = BundleUnavailable(found.entry.id, "its hosts are being replaced")
        for _ in range(_TRIES):
            current = self._find(found.entry, found.operation.name)
            if current is None:
                raise _no_operation()
            if isinstance(current, BundleUnavailable):
                raise _unavailable(current)
            _check(current.allows(caller), current.operation)
            grant = await self._grants(current.entry)
            if self.draining:
                raise _draining()
            if current.operation.streams != found.operation.streams:
                break
            try:
                return current.host.call(self._job(request, current, grant, caller, data, trace))
            except TurnTooLarge:
                raise TooLarge("The data is too large for an operation: 4 MB with all that goes with it.") from None
            except BundleUnavailable as error:
                unavailable = error
        raise _unavailable(unavailable)

    def _job(
        self,
        request: Request,
        found: Found,
        grant: BundleGrant,
        caller: Caller | None,
        data: bytes,
        trace: TraceContext,
    ) -> CallJob:
        entry, operation, request_id = found.entry, found.operation, request_id_of(request)
        return CallJob(
            operation=operation.name,
            data=data,
            user=_NOBODY if caller is None else wire.User(caller.user_id, caller.user_type, caller.roles),
            config=grant.config,
            secrets=grant.secrets.values,
            unreadable=grant.secrets.unreadable,
            request_id=request_id,
            timeout_s=min(entry.operation_timeout_s, operation.timeout_s or entry.operation_timeout_s),
            asks=Asked(caller, entry.id, request_id, trace, self._taking, self._limiter),
            told=told,
            trace=trace,
        )

    # ---- the document

    async def openapi(self, request: Request) -> Response:
        """``GET …/openapi.json``: the operations that the caller may call."""
        caller = await self._callers.identify_if_any(request)
        entry = self._entry(request)
        try:
            host = None if entry is None else self._pool.for_calls(entry.id)
        except BundleUnavailable as error:
            if caller is None:
                raise Unauthorised("Sign in, or ask /profile for a session.") from None
            raise _unavailable(error) from error
        each = [Found(entry, host, operation) for operation in host.operations.values()] if entry and host else []
        allowed = [found.operation for found in each if found.allows(caller)]
        if caller is None and not allowed:
            raise Unauthorised("Sign in, or ask /profile for a session.")
        if entry is None or host is None:
            raise self._unready(request) or NotFound("There is no such bundle.")
        limits = self._live.current.limits.proc
        return json_response(
            openapi_document(self._scope, entry, host.version, allowed, host.schemas, limits.max_body_bytes)
        )

    # ---- what a path names

    def _entry(self, request: Request) -> BundleEntry | None:
        bundle_id = self._bundle_id(request)
        release = None if bundle_id is None else self._bundles.current.releases.get(bundle_id)
        return release and release.entry

    def _unready(self, request: Request) -> Unavailable | None:
        """For a bundle that is registered, and of which nothing can be served yet."""
        bundle_id, registered = self._bundle_id(request), self._bundles.current
        if bundle_id is None or bundle_id not in registered.unready:
            return None
        return unready(registered.unready[bundle_id])

    def _bundle_id(self, request: Request) -> str | None:
        """None in another tenant or project."""
        given = request.path_params
        return given["bundle_id"] if (given["tenant"], given["project"]) == self._scope else None

    def _find(self, entry: BundleEntry, name: str) -> Found | BundleUnavailable | None:
        try:
            host = self._pool.for_calls(entry.id)
        except BundleUnavailable as error:
            return error
        operation = host.operations.get(name)
        return None if operation is None else Found(host.entry, host, operation)


def _describe(span: Span, found: Found, outcome: CallOutcome) -> None:
    if span.recording:
        kind = type(outcome).__name__
        span.set({"kdcube.bundle_id": found.entry.id, "kdcube.operation": found.operation.name, "kdcube.outcome": kind})
        if isinstance(outcome, CallCrashed | CallLost | CallStopped):
            span.fail(kind)


async def _left(request: Request, call: RunningCall) -> None:
    """Stops the call when its client leaves. The body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    call.stop("gone")


def _check(allowed: bool, of: BundleEntry | wire.Operation) -> None:
    if not allowed:
        what = "bundle" if isinstance(of, BundleEntry) else "operation"
        raise Forbidden(f"The {what} is for {of.required_user_type} users and above.", error=f"{what}_not_allowed")


def _draining() -> Unavailable:
    return Unavailable("This process is being stopped; try again.", retry_after_s=1.0, error="draining")


def _no_operation() -> NotFound:
    return NotFound("There is no such operation.")


def _unavailable(error: BundleUnavailable) -> Unavailable:
    logger.warning("operations.bundle_unavailable", bundle=error.bundle_id, reason=error.reason)
    return Unavailable("The bundle cannot run operations now; try again.", retry_after_s=RETRY_S, error="bundle_away")
