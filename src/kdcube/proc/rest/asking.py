"""What operations ask for in the name of their callers: done as if the callers had asked themselves."""

from __future__ import annotations

from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import UNEXPECTED, Unauthorised, problem
from kdcube.gateway.limits import Limiter
from kdcube.gateway.turns.messages import Message
from kdcube.gateway.turns.taking import Taking
from kdcube.postgres.records import StoredTurn
from kdcube.protocol.errors import InvalidInput, KDCubeError
from kdcube.protocol.ids import check_client_id
from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import Policy
from kdcube.sdk import wire

_FIELDS = {"message.conversation_id": "conversation_id", "message.text": "text", "message.payload": "payload"}
"""Of a message, and what start_turn calls them."""


class Asked:
    """What one call may ask for: everything within what ``caller`` owns and may do. None is nobody."""

    def __init__(
        self,
        caller: Caller | None,
        bundle_id: str,
        request_id: str,
        trace: TraceContext,
        taking: Taking,
        limiter: Limiter,
    ) -> None:
        self._caller = caller
        self._bundle_id = bundle_id
        self._request_id = request_id
        self._trace = trace
        self._taking = taking
        self._limiter = limiter

    async def conversation(self, asked: wire.AskConversation) -> wire.Conversation | None:
        """None for what is not the caller's, or does not exist. Raises Unauthorised, StoreUnavailable."""
        caller = self._known()
        try:
            conversation_id = check_client_id("conversation_id", asked.conversation_id)
        except InvalidInput:
            return None
        found = await self._taking.conversations.fetch(caller.user_id, conversation_id)
        if found is None:
            return None
        turns = [*(shown.turn for shown in found.branch), *found.pending]
        latest = _latest(turns)
        return wire.Conversation(conversation_id, found.conversation.title, latest, complete=len(latest) == len(turns))

    async def start_turn(self, asked: wire.AskTurn) -> wire.AcceptedTurn:
        """Raises what a send of the caller's raises."""
        caller = self._known()
        message = Message(
            text=asked.text,
            conversation_id=asked.conversation_id,
            bundle_id=self._bundle_id,
            payload=asked.payload,
            policy=_policy(asked.policy),
        )
        try:
            envelope = self._taking.composer.compose(
                message, caller, key=asked.idempotency_key, request_id=self._request_id, trace=self._trace
            )
        except InvalidInput as error:
            raise InvalidInput(_FIELDS.get(error.field, error.field), error.message) from None
        accepted = await self._taking.accepting.accept(envelope, self._limiter.sender_of(caller))
        return wire.AcceptedTurn(
            turn_id=accepted.client_turn_id,
            task_id=accepted.turn_id,
            conversation_id=accepted.conversation_id,
            position=accepted.position,
            duplicate=accepted.duplicate,
        )

    def _known(self) -> Caller:
        if self._caller is None:
            raise Unauthorised("Sign in: this takes somebody in whose name it is done.")
        return self._caller


def told(error: KDCubeError) -> wire.Told:
    """What an operation hears of a refusal: what its caller would."""
    known = problem(error) or UNEXPECTED
    return wire.Told(0, 0, None, known.error, known.message, known.field, known.retry_after_s)


def _policy(given: str | None) -> Policy | None:
    if given is None:
        return None
    try:
        return Policy(given)
    except ValueError:
        raise InvalidInput("policy", f"is {given[:40]!r}; give one of {', '.join(Policy)}") from None


def _latest(turns: list[StoredTurn]) -> list[wire.ConversationTurn]:
    """The last of them, as many as fit."""
    chosen: list[wire.ConversationTurn] = []
    room = wire.MAX_STATE_BYTES
    for turn in reversed(turns):
        answer = turn.answer or ""
        room -= len(turn.message.encode()) + len(answer.encode()) + 512
        if room < 0:
            break
        chosen.append(
            wire.ConversationTurn(turn.client_turn_id, turn.turn_id, turn.bundle_id, turn.state, turn.message, answer)
        )
    return chosen[::-1]
