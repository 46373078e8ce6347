"""Sending, cancelling, asking how a conversation stands, and the streams."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kdcube.gateway.answers import json_response
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import NotFound
from kdcube.gateway.exchange import exchange_of, request_id_of
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.limits import Limiter
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.reading import read_json, read_message
from kdcube.gateway.turns.accepting import Acceptance, Accepting
from kdcube.gateway.turns.cancelling import Cancelling
from kdcube.gateway.turns.messages import ROOT, Composer, Message, Origin, Send
from kdcube.ingress.requests import Cancel, Status, path_id
from kdcube.ingress.streams import Streams
from kdcube.ingress.streams.response import EventStream
from kdcube.ingress.views import iso
from kdcube.postgres.conversations import Conversations
from kdcube.postgres.turns import Turns
from kdcube.protocol.errors import InvalidInput, StoreUnavailable
from kdcube.protocol.ids import check_client_id
from kdcube.protocol.turns import TurnState
from kdcube.redis.feed import Feeds

SMALL_BODY_BYTES = 64 * 1024


_SEND = msgspec.json.Decoder(Send)
_CANCEL = msgspec.json.Decoder(Cancel)
_STATUS = msgspec.json.Decoder(Status)


class ChatRoutes:
    """``/sse/*`` and ``/turns/{turn_id}/stream``."""

    def __init__(
        self,
        callers: Callers,
        composer: Composer,
        accepting: Accepting,
        cancelling: Cancelling,
        streams: Streams,
        turns: Turns,
        conversations: Conversations,
        feeds: Feeds,
        live: LiveGateway,
        limiter: Limiter,
    ) -> None:
        self._callers = callers
        self._composer = composer
        self._accepting = accepting
        self._cancelling = cancelling
        self._streams = streams
        self._turns = turns
        self._conversations = conversations
        self._feeds = feeds
        self._live = live
        self._limiter = limiter

    async def send(self, request: Request) -> Response:
        caller = await self._callers.identify(request, opens=True, sends=True)
        max_bytes = self._live.current.limits.ingress.max_body_bytes
        message = (await read_message(request, _SEND, max_bytes)).message
        origin = await self._origin(caller, message)
        envelope = self._composer.compose(
            message,
            caller,
            key=request.headers.get("idempotency-key"),
            request_id=request_id_of(request),
            origin=origin,
            trace=exchange_of(request).trace,
        )
        acceptance = await self._accepting.accept(envelope, self._limiter.sender(request, caller))
        return accepted(acceptance, caller, request)

    async def _origin(self, caller: Caller, message: Message) -> Origin | None:
        """What ``parent_turn_id`` stands for; it also says which conversation, when the message does not."""
        named = message.parent_turn_id
        if named is None:
            return None
        if named == ROOT:
            return Origin(None)
        parent = await self._turns.find(caller.user_id, check_client_id("message.parent_turn_id", named))
        if parent is None or message.conversation_id not in (None, parent.conversation_id) or parent.attempt == 0:
            raise NotFound(
                "The conversation has no such turn, or it has not started.",
                error="parent_not_found",
                field="message.parent_turn_id",
            )
        message.conversation_id = parent.conversation_id
        return Origin(parent.turn_id)

    async def cancel(self, request: Request) -> Response:
        caller = await self._callers.identify(request)
        body = await read_json(request, _CANCEL, SMALL_BODY_BYTES)
        if body.turn_id is not None and body.conversation_id is None:
            live = await self._cancelling.turn(caller.user_id, check_client_id("turn_id", body.turn_id))
        elif body.conversation_id is not None and body.turn_id is None:
            conversation_id = check_client_id("conversation_id", body.conversation_id)
            live = await self._cancelling.conversation(caller.user_id, conversation_id)
        else:
            raise InvalidInput("turn_id", "give either turn_id or conversation_id")
        return json_response({"status": "cancelling" if live else "already_ended"})

    async def conversation_status(self, request: Request) -> Response:
        caller = await self._callers.identify(request)
        body = await read_json(request, _STATUS, SMALL_BODY_BYTES)
        conversation_id = check_client_id("conversation_id", body.conversation_id)
        conversation = await self._conversations.get(caller.user_id, conversation_id)
        if conversation is None:
            raise NotFound("There is no such conversation.", error="conversation_not_found", field="conversation_id")
        current = await self._turns.current(caller.user_id, conversation_id)
        state = "idle" if current is None else "in_progress" if current.state is TurnState.RUNNING else "queued"
        status = {
            "conversation_id": conversation_id,
            "state": state,
            "current_turn_id": current and current.client_turn_id,
            "current_task_id": current and current.turn_id,
            "updated_at": iso(conversation.last_activity_ms),
        }
        if body.stream_id is not None:  # existing clients read the answer from their stream
            with suppress(StoreUnavailable):
                await self._feeds.notify(caller.user_id, {"type": "conversation.status", **status})
        return json_response(status)

    async def user_stream(self, request: Request) -> EventStream:
        caller = await self._callers.identify(request, opens=True, query_tokens=True)
        return await self._streams.user_stream(request, caller)

    async def turn_stream(self, request: Request) -> EventStream:
        caller = await self._callers.identify(request, query_tokens=True)
        return await self._streams.turn_stream(request, caller, path_id(request, "turn_id"))


def accepted(acceptance: Acceptance, caller: Caller, request: Request) -> Response:
    """The 202 of a send or a retry."""
    exchange_of(request).left = acceptance.left
    body: dict[str, Any] = {
        "status": "processing_started",
        "task_id": acceptance.turn_id,
        "turn_id": acceptance.client_turn_id,
        "conversation_id": acceptance.conversation_id,
        "session_id": caller.session_id,
        "user_type": caller.user_type,
        "position": acceptance.position,
    }
    if acceptance.eta_s is not None:
        body["eta_s"] = acceptance.eta_s
    if acceptance.receipt is not None:
        body["receipt"] = {"id": acceptance.turn_id, "state": acceptance.receipt}
    if acceptance.duplicate:
        body["duplicate"] = True
    return json_response(body, 202)
