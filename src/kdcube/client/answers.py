"""What the HTTP API answers, as far as clients here read it. Members that are not known are ignored."""

from __future__ import annotations

from typing import Any

import msgspec


class Bundle(msgspec.Struct, frozen=True):
    id: str
    name: str
    description: str | None = None


class Profile(msgspec.Struct, frozen=True):
    """Who the caller is. ``session_id`` makes an anonymous caller the same user again."""

    user_type: str
    user_id: str
    session_id: str
    username: str | None = None
    bundles: tuple[Bundle, ...] = ()
    default_bundle_id: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """What has become of a steer: accepted, seen, applied, bounced or cancelled."""

    id: str
    state: str


class Accepted(msgspec.Struct, frozen=True):
    """A turn that was accepted. ``task_id`` is its internal id; ``position`` 0 does not wait."""

    task_id: str
    turn_id: str
    conversation_id: str
    user_type: str
    position: int = 0
    eta_s: float | None = None
    receipt: Receipt | None = None
    duplicate: bool = False


class Citation(msgspec.Struct, frozen=True):
    """A source, numbered in its turn from 1."""

    n: int
    title: str
    uri: str
    heading: str | None = None
    quote: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """A stored turn."""

    task_id: str
    state: str
    message: str
    answer: str = ""
    citations: tuple[tuple[Citation, ...], ...] = ()
    error: dict[str, Any] | None = None
    siblings: tuple[str, ...] = ()


class ConversationItem(msgspec.Struct, frozen=True):
    """``last_activity_at`` is ISO 8601."""

    conversation_id: str
    title: str
    last_activity_at: str
    pinned: bool = False


class Page(msgspec.Struct, frozen=True):
    """Conversations, the latest first; ``next`` is the cursor of the page behind it."""

    items: tuple[ConversationItem, ...]
    next: str | None = None


class Conversation(msgspec.Struct, frozen=True):
    """``turns`` are those of the active branch that have started, ``pending`` wait or run."""

    conversation_id: str
    title: str
    turns: tuple[Turn, ...] = ()
    pending: tuple[Turn, ...] = ()
    unstarted: tuple[Turn, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
