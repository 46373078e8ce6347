"""From a client's message to the envelope of a turn. Pure: nothing is asked of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import Forbidden, Unavailable
from kdcube.gateway.live import LiveGateway
from kdcube.postgres.records import StoredTurn
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_client_id, conversation_id_for, turn_id_for
from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import EarlierMessage, Policy, TurnEnvelope, UserType, content_hash

ClientId: TypeAlias = Annotated[
    str, msgspec.Meta(extra_json_schema={"pattern": "^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$"})
]
"""An id whose spelling ``check_client_id`` checks; here it is only described."""

ROOT = "root"
"""``parent_turn_id`` of an edit of a conversation's first turn."""

RANK: Mapping[UserType, int] = {
    UserType.ANONYMOUS: 0,
    UserType.EXTERNAL: 1,
    UserType.REGISTERED: 1,
    UserType.PAID: 2,
    UserType.PRIVILEGED: 3,
}


class Message(msgspec.Struct, kw_only=True):
    """What a client sends. ``message`` is another name of ``text``; members that are not known are ignored."""

    text: str | None = None
    message: str | None = None
    turn_id: ClientId | None = None
    conversation_id: ClientId | None = None
    bundle_id: str | None = None
    payload: dict[str, Any] | None = None
    policy: Policy | None = None
    parent_turn_id: ClientId | None = None
    """Of an edit: the turn before the one that is edited, by either id, or ROOT."""


class Send(msgspec.Struct):
    """The body of ``POST /sse/chat``."""

    message: Message


class Origin(msgspec.Struct, frozen=True):
    """Where a new branch begins: under ``parent_turn_id``, or beside the first turn when that is None."""

    parent_turn_id: str | None


class Composer:
    """Makes envelopes for one tenant and project."""

    def __init__(self, live: LiveGateway, bundles: LiveBundles) -> None:
        self._tenant = live.current.tenant
        self._project = live.current.project
        self._live = live
        self._bundles = bundles

    def compose(
        self,
        message: Message,
        caller: Caller,
        *,
        key: str | None,
        request_id: str,
        origin: Origin | None = None,
        history: Sequence[EarlierMessage] = (),
        trace: TraceContext | None = None,
    ) -> TurnEnvelope:
        """The envelope of ``message``. ``key`` is the Idempotency-Key, ``origin`` what its parent_turn_id stands for,
        ``trace`` what the turn's work belongs to.

        ``history`` is what was said before a conversation's first message; whoever gives it has bounded its size.
        Raises InvalidInput, which names the field, Forbidden when the bundle is not for the caller, and Unavailable
        while nothing of it can be served yet.
        """
        text = (message.text or message.message or "").replace("\0", "\ufffd")  # as PostgreSQL will store it
        payload = message.payload or {}
        self._check_content(text, payload)
        if message.turn_id is not None:
            check_client_id("message.turn_id", message.turn_id)
        if message.conversation_id is not None:
            check_client_id("message.conversation_id", message.conversation_id)
        bundle = self._bundle(message.bundle_id, caller)
        if key is not None:
            check_client_id("Idempotency-Key", key)
        key = key if key is not None else message.turn_id
        turn_id = turn_id_for(self._tenant, self._project, caller.user_id, key)
        conversation_id = message.conversation_id or conversation_id_for(
            self._tenant, self._project, caller.user_id, key
        )
        policy = message.policy or Policy.ENQUEUE
        return TurnEnvelope(
            turn_id=turn_id,
            client_turn_id=message.turn_id or turn_id,
            tenant=self._tenant,
            project=self._project,
            user_id=caller.user_id,
            user_type=caller.user_type,
            session_id=caller.session_id,
            request_id=request_id,
            conversation_id=conversation_id,
            bundle_id=bundle.id,
            text=text,
            content_hash=content_hash(
                text=text,
                conversation_id=conversation_id,
                bundle_id=message.bundle_id or "",
                payload=payload,
                policy=policy,
                parent_turn_id=None if origin is None else origin.parent_turn_id or ROOT,
                history=history,
            ),
            roles=caller.roles,
            payload=payload,
            policy=policy,
            parent_turn_id=None if origin is None else origin.parent_turn_id,
            root=origin is not None and origin.parent_turn_id is None,
            history=tuple(history),
            traceparent=trace.traceparent if trace else "",
            tracestate=trace.tracestate if trace else "",
        )

    def again(
        self,
        original: TurnEnvelope,
        turn: StoredTurn,
        caller: Caller,
        *,
        key: str | None,
        request_id: str,
        trace: TraceContext | None = None,
    ) -> TurnEnvelope:
        """The envelope of a retry: the same message as a sibling of ``turn``, or in its place when it never started.

        Raises as ``compose`` does.
        """
        started = turn.attempt > 0
        parent = turn.parent_turn_id if started else original.parent_turn_id
        branches = started or original.root or original.parent_turn_id is not None
        message = Message(
            text=original.text,
            conversation_id=original.conversation_id,
            bundle_id=original.bundle_id,
            payload=original.payload,
        )
        return self.compose(
            message,
            caller,
            key=key,
            request_id=request_id,
            origin=Origin(parent) if branches else None,
            history=original.history,
            trace=trace,
        )

    def _check_content(self, text: str, payload: dict[str, Any]) -> None:
        limits = self._live.current.limits.ingress
        if not text and not payload:
            raise InvalidInput("message.text", "the message is empty: give text, or a payload")
        if len(text) > limits.max_text_chars:
            raise InvalidInput("message.text", f"text has more than {limits.max_text_chars} characters")
        if payload:
            try:
                size_bytes = len(msgspec.msgpack.encode(payload))
            except OverflowError:
                raise InvalidInput("message.payload", "payload has an integer of more than 64 bits") from None
            if size_bytes > limits.max_payload_bytes:
                raise InvalidInput("message.payload", f"payload takes more than {limits.max_payload_bytes} bytes")

    def _bundle(self, named: str | None, caller: Caller) -> BundleEntry:
        registered = self._bundles.current
        bundle_id = named or registered.default_bundle_id
        if bundle_id is None:
            raise InvalidInput("message.bundle_id", f"name a bundle: {self._known()}")
        release = registered.releases.get(bundle_id)
        if release is None and bundle_id in registered.unready:
            raise unready(registered.unready[bundle_id])
        if release is None:
            raise InvalidInput("message.bundle_id", f"there is no such bundle; there are: {self._known()}")
        bundle = release.entry
        if not may_use(caller, bundle):
            raise Forbidden(
                f"The bundle is for {bundle.required_user_type} users and above.",
                error="bundle_not_allowed",
                field="message.bundle_id",
            )
        return bundle

    def _known(self) -> str:
        return ", ".join(sorted(self._bundles.current.releases)) or "none"


def may_use(caller: Caller, bundle: BundleEntry) -> bool:
    """Whether the bundle is for users of the caller's type."""
    required = bundle.required_user_type
    return required is None or RANK[caller.user_type] >= RANK[required]


def unready(problem: str | None) -> Unavailable:
    """What is told of a bundle of which nothing can be served yet. What is wrong with it is for administrators."""
    if problem is None:
        return Unavailable("The bundle is being prepared; try again.", error="bundle_preparing")
    return Unavailable("No version of the bundle can be served now.", error="bundle_unavailable")
