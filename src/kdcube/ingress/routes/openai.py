"""The API that OpenAI's clients speak: a bundle is a model, a turn is a completion."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.answers import json_response
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import NotFound, Unauthorised, Unavailable
from kdcube.gateway.exchange import exchange_of, request_id_of
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.limits import Limiter
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.reading import read_json
from kdcube.gateway.turns.accepting import Accepting
from kdcube.gateway.turns.cancelling import Cancelling
from kdcube.gateway.turns.messages import Composer, may_use
from kdcube.ingress.routes.openai_errors import failure_response
from kdcube.ingress.routes.openai_request import ChatCompletion, understand
from kdcube.ingress.streams import Streams
from kdcube.ingress.streams.projection.openai import Completion
from kdcube.ingress.streams.response import EventStream
from kdcube.protocol.errors import KDCubeError

ANONYMOUS = b"Bearer anonymous"
"""What a client sends that cannot do without a key, for a user without one."""

_CHAT = msgspec.json.Decoder(ChatCompletion)

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class OpenAIRoutes:
    """``/v1/models`` and ``/v1/chat/completions``."""

    def __init__(
        self,
        callers: Callers,
        composer: Composer,
        accepting: Accepting,
        cancelling: Cancelling,
        streams: Streams,
        bundles: LiveBundles,
        live: LiveGateway,
        limiter: Limiter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._callers = callers
        self._composer = composer
        self._accepting = accepting
        self._cancelling = cancelling
        self._streams = streams
        self._bundles = bundles
        self._live = live
        self._limiter = limiter
        self._clock = clock
        self._since_s = int(clock())

    async def models(self, request: Request) -> Response:
        caller = await self._identify(request)
        mine = [id_ for id_, entry in self._bundles.registry.bundles.items() if may_use(caller, entry)]
        return json_response({"object": "list", "data": [self._model(id_) for id_ in mine]})

    async def model(self, request: Request) -> Response:
        caller = await self._identify(request)
        named = request.path_params["model"]
        entry = self._bundles.registry.bundles.get(named)
        if entry is None or not may_use(caller, entry):
            raise _no_model(named)
        return json_response(self._model(named))

    async def complete(self, request: Request) -> ASGIApp:
        caller = await self._identify(request, sends=True)
        limits = self._live.current.limits.ingress
        body = await read_json(request, _CHAT, limits.max_body_bytes)
        asked = understand(body, limits)
        if body.model not in self._bundles.current.known:
            raise _no_model(body.model)
        self._streams.check_room()  # afterwards the turn is there, and nothing may refuse to show it
        envelope = self._composer.compose(
            asked.message,
            caller,
            key=request.headers.get("idempotency-key"),
            request_id=request_id_of(request),
            history=asked.history,
            trace=exchange_of(request).trace,
        )
        acceptance = await self._accepting.accept(envelope, self._limiter.sender(request, caller))
        exchange_of(request).left = acceptance.left
        completion = Completion(
            turn_id=acceptance.turn_id,
            conversation_id=acceptance.conversation_id,
            model=body.model,
            created_s=int(self._clock()),
            whole=not body.stream,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        stream = self._streams.completion_stream(acceptance.turn_id, completion, caller)

        async def cancel() -> None:
            await self._cancel(caller.user_id, acceptance.turn_id)

        on_left = cancel if asked.cancel_on_disconnect else None
        return _Streamed(stream, completion, on_left) if body.stream else _Whole(stream, completion, on_left)

    async def _identify(self, request: Request, *, sends: bool = False) -> Caller:
        headers = request.scope["headers"]
        if (b"authorization", ANONYMOUS) in headers:
            kept = [(name, value) for name, value in headers if name != b"authorization"]
            request = Request({**request.scope, "headers": kept})
        return await self._callers.identify(request, opens=True, sends=sends)

    async def _cancel(self, user_id: str, turn_id: str) -> None:
        try:
            await self._cancelling.turn(user_id, turn_id)
        except KDCubeError as error:  # nobody is there to be told
            logger.warning("openai.not_cancelled", turn_id=turn_id, reason=str(error))

    def _model(self, bundle_id: str) -> dict[str, object]:
        return {"id": bundle_id, "object": "model", "created": self._since_s, "owned_by": "kdcube"}


def _no_model(named: str) -> NotFound:
    return NotFound(f"There is no model {named!r}: see /v1/models.", error="model_not_found", field="model")


class _Streamed:
    """The ASGI response of a stream. ``on_left`` is called when the client leaves before the end."""

    def __init__(
        self, stream: EventStream, completion: Completion, on_left: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._stream = stream
        self._completion = completion
        self._on_left = on_left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.follow(scope, receive, send)

    async def follow(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """False when the client has left before the answer ended."""
        left = False

        async def watched() -> AsgiMessage:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        await self._stream(scope, watched, send)
        if not left or self._completion.ended:
            return True
        if self._on_left is not None:
            await self._on_left()
        return False


class _Whole(_Streamed):
    """The ASGI response in one piece: the same stream, of which nothing is shown before its end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not await self.follow(scope, receive, _nowhere):
            return
        completion = self._completion
        if not completion.ended and self._stream.was_cut:
            raise Unauthorised(
                "What this was asked with is not valid any more; the turn goes on.", error="invalid_token"
            )
        if not completion.ended:
            raise Unavailable(
                "This process is being replaced; the turn goes on. Ask again with the same Idempotency-Key.",
                retry_after_s=1.0,
                error="server_shutdown",
            )
        response = failure_response(completion.failure) if completion.failure else json_response(completion.body())
        await response(scope, receive, send)


async def _nowhere(_: AsgiMessage) -> None:
    pass
