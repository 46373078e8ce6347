"""A turn: its states, the policies of a second message, and the envelope that carries it to a worker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

import msgspec

from kdcube.protocol.trace_context import TraceContext

ENVELOPE_VERSION = 1
"""Written by this release; it reads ENVELOPE_VERSION - 1 as well (rule 27)."""


class UserType(StrEnum):
    """The class under which a user's turns are scheduled and limited."""

    PRIVILEGED = "privileged"
    PAID = "paid"
    REGISTERED = "registered"
    ANONYMOUS = "anonymous"
    EXTERNAL = "external"


class Policy(StrEnum):
    """What a message does when its conversation is busy."""

    ENQUEUE = "enqueue"
    STEER = "steer"
    INTERRUPT = "interrupt"
    REJECT = "reject"


class TurnState(StrEnum):
    """Where a turn stands. ``claimed`` exists in Valkey only; ``steering`` and ``applied`` are those of a steer."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    STEERING = "steering"
    APPLIED = "applied"


TERMINAL = frozenset({TurnState.COMPLETED, TurnState.FAILED, TurnState.CANCELLED, TurnState.INTERRUPTED})


class ReceiptState(StrEnum):
    """What became of a steer."""

    ACCEPTED = "accepted"
    SEEN = "seen"
    APPLIED = "applied"
    BOUNCED = "bounced"
    CANCELLED = "cancelled"


class EarlierMessage(msgspec.Struct, frozen=True, array_like=True):
    """One message before a conversation's first turn, as its client tells it."""

    role: Literal["user", "assistant"]
    text: str


class TurnEnvelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that a worker needs to run a turn, as ingress accepted it. Encoded as msgpack in Valkey."""

    turn_id: str
    client_turn_id: str
    tenant: str
    project: str
    user_id: str
    user_type: UserType
    session_id: str
    request_id: str
    conversation_id: str
    bundle_id: str
    text: str
    content_hash: str
    version: int = ENVELOPE_VERSION
    roles: tuple[str, ...] = ()
    payload: dict[str, Any] = {}
    policy: Policy = Policy.ENQUEUE
    parent_turn_id: str | None = None
    """Set for an edit or a retry: the new turn is a sibling under this parent. None: the tip of the conversation."""
    root: bool = False
    """An edit or retry of a conversation's first turn: a sibling without a parent."""
    history: tuple[EarlierMessage, ...] = ()
    """Of a conversation's first turn, when the conversation began elsewhere: what was said there, oldest first."""
    traceparent: str = ""
    """Of the request that sent the message, as its work here continues it. Empty from a release that knew no traces."""
    tracestate: str = ""

    @property
    def trace(self) -> TraceContext | None:
        """What the turn's work belongs to; None when it came from a release that knew no traces."""
        return TraceContext(self.traceparent, self.tracestate) if self.traceparent else None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(TurnEnvelope)


def encode_envelope(envelope: TurnEnvelope) -> bytes:
    """Msgpack, a map by field name."""
    return _ENCODER.encode(envelope)


def decode_envelope(data: bytes) -> TurnEnvelope:
    """The reverse of encode_envelope. Raises msgspec.ValidationError when the bytes are no envelope."""
    return _DECODER.decode(data)


_CANONICAL = msgspec.json.Encoder(order="deterministic")


def content_hash(
    *,
    text: str,
    conversation_id: str,
    bundle_id: str,
    payload: dict[str, Any],
    policy: Policy,
    attachments: Sequence[str] = (),
    parent_turn_id: str | None = None,
    history: Sequence[EarlierMessage] = (),
) -> str:
    """The SHA-256 that tells a repeated send from another message under the same key (rule 3).

    ``attachments`` are the digests of their content, in order. ``bundle_id`` is what the client named, not a default.
    """
    content: list[Any] = [text, conversation_id, bundle_id, payload, policy, list(attachments)]
    if parent_turn_id is not None:
        content.append(parent_turn_id)
    if history:
        content.append(history)
    return hashlib.sha256(_CANONICAL.encode(content)).hexdigest()
