"""The conversations of the caller. What is another user's is not found."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from kdcube.config.gateway import Limits
from kdcube.gateway.answers import json_response
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import Conflict, NotFound
from kdcube.gateway.exchange import exchange_of, request_id_of
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.limits import Limiter
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.reading import read_json
from kdcube.gateway.turns.accepting import Accepting
from kdcube.gateway.turns.cancelling import Cancelling, now_ms
from kdcube.gateway.turns.messages import Composer
from kdcube.ingress.requests import FEEDBACK_MAX_CHARS, REACTION_MAX_CHARS, Feedback, Patch, path_id
from kdcube.ingress.routes.chat import SMALL_BODY_BYTES, accepted
from kdcube.ingress.views import EXPORTS, attachment, conversation_item, conversation_view
from kdcube.postgres.conversations import Conversations
from kdcube.postgres.records import Conversation, StoredTurn
from kdcube.postgres.turns import Turns
from kdcube.protocol.errors import InvalidInput, StoreUnavailable
from kdcube.protocol.ids import check_client_id
from kdcube.protocol.turns import TERMINAL
from kdcube.redis.feed import Feeds

PAGE_ITEMS = 50

logger: FilteringBoundLogger = structlog.get_logger(__name__)


_PATCH = msgspec.json.Decoder(Patch)
_FEEDBACK = msgspec.json.Decoder(Feedback)


class ConversationRoutes:
    """``/conversations``."""

    def __init__(
        self,
        callers: Callers,
        conversations: Conversations,
        turns: Turns,
        composer: Composer,
        accepting: Accepting,
        cancelling: Cancelling,
        feeds: Feeds,
        live: LiveGateway,
        limiter: Limiter,
    ) -> None:
        self._callers = callers
        self._conversations = conversations
        self._turns = turns
        self._composer = composer
        self._accepting = accepting
        self._cancelling = cancelling
        self._feeds = feeds
        self._live = live
        self._limiter = limiter

    @property
    def _limits(self) -> Limits:
        return self._live.current.limits.ingress

    async def list(self, request: Request) -> Response:
        caller = await self._callers.identify(request)
        query = request.query_params
        q = query.get("q") or None
        if q is not None and len(q) > self._limits.max_search_chars:
            raise InvalidInput("q", f"q must have at most {self._limits.max_search_chars} characters")
        page = await self._conversations.list(
            caller.user_id, cursor=query.get("cursor") or None, limit=self._limit(query.get("limit")), query=q
        )
        return json_response({"items": [conversation_item(item) for item in page.items], "next": page.next})

    def _limit(self, text: str | None) -> int:
        largest = self._limits.max_page_items
        if text is None:
            return min(PAGE_ITEMS, largest)
        if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= largest):
            raise InvalidInput("limit", f"limit must be 1 to {largest}")
        return int(text)

    async def fetch(self, request: Request) -> Response:
        caller, conversation_id = await self._named(request)
        view = await self._conversations.fetch(caller.user_id, conversation_id)
        if view is None:
            raise _not_found()
        return json_response(conversation_view(view))

    async def patch(self, request: Request) -> Response:
        caller, conversation_id = await self._named(request)
        body = await read_json(request, _PATCH, SMALL_BODY_BYTES)
        title = None if body.title is None else self._title(body.title)
        conversation: Conversation | None = None
        if body.head_turn_id is not None:
            await self._select_branch(caller, conversation_id, body.head_turn_id)
        if title is not None:
            conversation = _found(await self._conversations.rename(caller.user_id, conversation_id, title))
            await self._notify(caller, "conversation.renamed", conversation_id, title=conversation.title)
        if body.pinned is not None:
            conversation = _found(await self._conversations.pin(caller.user_id, conversation_id, body.pinned))
            await self._notify(caller, "conversation.pinned", conversation_id, pinned=body.pinned)
        conversation = conversation or _found(await self._conversations.get(caller.user_id, conversation_id))
        return json_response(conversation_item(conversation))

    def _title(self, given: str) -> str:
        title = " ".join(given.split())
        if not 1 <= len(title) <= self._limits.max_title_chars:
            raise InvalidInput("title", f"title must have 1 to {self._limits.max_title_chars} characters")
        return title

    async def _select_branch(self, caller: Caller, conversation_id: str, id_: str) -> None:
        check_client_id("head_turn_id", id_)
        turn = await self._turns.find(caller.user_id, id_)
        if turn is None or not await self._conversations.select_branch(caller.user_id, conversation_id, turn.turn_id):
            raise NotFound(
                "The conversation has no such turn, or it never started.", error="turn_not_found", field="head_turn_id"
            )
        await self._notify(caller, "conversation.branch", conversation_id, head_turn_id=turn.turn_id)

    async def delete(self, request: Request) -> Response:
        caller, conversation_id = await self._named(request)
        cancelled = await self._conversations.delete(caller.user_id, conversation_id, now_ms())
        if cancelled is None:
            raise _not_found()
        await self._cancelling.carry_out(cancelled)
        await self._notify(caller, "conversation.deleted", conversation_id)
        return json_response({"status": "deleted", "conversation_id": conversation_id})

    async def restore(self, request: Request) -> Response:
        caller, conversation_id = await self._named(request)
        conversation = _found(await self._conversations.restore(caller.user_id, conversation_id))
        await self._notify(caller, "conversation.restored", conversation_id)
        return json_response(conversation_item(conversation))

    async def export(self, request: Request) -> Response:
        caller, conversation_id = await self._named(request)
        format_ = request.query_params.get("format", "json")
        if format_ not in EXPORTS:
            raise InvalidInput("format", f"format must be {' or '.join(EXPORTS)}")
        export = await self._conversations.export(caller.user_id, conversation_id)
        if export is None:
            raise _not_found()
        content_type, write = EXPORTS[format_]
        return Response(
            write(export),
            headers={"Content-Disposition": attachment(export.conversation.title, format_)},
            media_type=content_type,
        )

    async def feedback(self, request: Request) -> Response:
        caller, turn = await self._turn(request)
        body = await read_json(request, _FEEDBACK, SMALL_BODY_BYTES)
        if body.reaction is not None and not 1 <= len(body.reaction) <= REACTION_MAX_CHARS:
            raise InvalidInput("reaction", f"reaction must have 1 to {REACTION_MAX_CHARS} characters")
        if body.text is not None and len(body.text) > FEEDBACK_MAX_CHARS:
            raise InvalidInput("text", f"text must have at most {FEEDBACK_MAX_CHARS} characters")
        await self._turns.feedback(turn.turn_id, caller.user_id, body.reaction, body.text)
        return json_response({"task_id": turn.turn_id, "feedback": {"reaction": body.reaction, "text": body.text}})

    async def retry(self, request: Request) -> Response:
        """A sibling: the same message again, beside the turn."""
        caller, turn = await self._turn(request)
        if turn.steer_of is not None and turn.attempt == 0:
            raise Conflict("A message that steered another turn cannot be retried by itself.", error="turn_is_steer")
        if turn.state not in TERMINAL:
            raise Conflict("The turn has not ended.", error="turn_unfinished")
        original = await self._turns.envelope(turn.turn_id)
        if original is None:
            raise _not_found()
        envelope = self._composer.again(
            original,
            turn,
            caller,
            key=request.headers.get("idempotency-key"),
            request_id=request_id_of(request),
            trace=exchange_of(request).trace,
        )
        acceptance = await self._accepting.accept(envelope, self._limiter.sender(request, caller))
        return accepted(acceptance, caller, request)

    async def _named(self, request: Request) -> tuple[Caller, str]:
        """The caller and the conversation of the path, which need not exist."""
        caller = await self._callers.identify(request)
        return caller, path_id(request, "conversation_id")

    async def _turn(self, request: Request) -> tuple[Caller, StoredTurn]:
        caller, conversation_id = await self._named(request)
        if await self._conversations.get(caller.user_id, conversation_id) is None:
            raise _not_found()
        turn = await self._turns.find(caller.user_id, path_id(request, "turn_id"))
        if turn is None or turn.conversation_id != conversation_id:
            raise NotFound("The conversation has no such turn.", error="turn_not_found")
        return caller, turn

    async def _notify(self, caller: Caller, type_: str, conversation_id: str, **members: Any) -> None:
        """Tells the caller's other tabs. What PostgreSQL has committed stands, whether or not they hear of it."""
        event = {"type": type_, "conversation_id": conversation_id, **members}
        try:
            await self._feeds.notify(caller.user_id, event)
        except StoreUnavailable as error:
            logger.warning("conversation.not_told", type=type_, reason=str(error))


def _found(conversation: Conversation | None) -> Conversation:
    if conversation is None:
        raise _not_found()
    return conversation


def _not_found() -> NotFound:
    return NotFound("There is no such conversation.", error="conversation_not_found")
