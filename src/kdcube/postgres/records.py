"""What PostgreSQL is asked and what it answers: requests, outcomes and stored rows. All times are Unix milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kdcube.protocol.turns import EarlierMessage, TurnEnvelope, TurnState

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """A turn's row without its envelope."""

    turn_id: str
    client_turn_id: str
    conversation_id: str
    user_id: str
    user_type: str
    session_id: str
    request_id: str
    bundle_id: str
    bundle_version: str | None
    content_hash: str
    state: TurnState
    attempt: int
    """How many times the turn was started; 0 before its first START."""
    claim_id: str | None
    worker_id: str | None
    admitted_order: int
    accepted_ms: int
    queued_ms: int
    """When the turn last became ready to start, by PostgreSQL's clock."""
    started_ms: int | None
    ended_ms: int | None
    parent_turn_id: str | None
    """Of a started turn: the turn before it on its branch, None for a root."""
    steer_of: str | None
    cancel_requested: bool
    message: str
    answer: str | None
    text_by_marker: dict[str, str]
    steps: list[Json]
    services: list[Json]
    error: Json | None
    bundle_state: Json | None
    usage: list[Json]
    """The data of each ``turn.usage``, in order."""
    feedback_reaction: str | None
    feedback_text: str | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A turn that has not ended, with what a worker needs to run it."""

    turn: StoredTurn
    envelope: TurnEnvelope | None
    """None when this release cannot read it."""


@dataclass(frozen=True, slots=True)
class HistoryTurn:
    """One turn of the path that leads to a turn."""

    turn_id: str
    text: str
    answer: str
    state: TurnState
    ended_ms: int | None
    steers: tuple[str, ...] = ()
    """What the user added while the turn ran (applied steers), in order."""
    before: tuple[EarlierMessage, ...] = ()
    """Of a root: what was said before the conversation came here."""


# --- admit ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admission:
    """A turn that Valkey admitted and whose row is to be written."""

    envelope: TurnEnvelope
    order: int
    accepted_ms: int
    steer_of: str | None = None
    """The running turn that this one is a steer of."""
    interrupts: str | None = None
    """The turn of the same conversation that this one cancels."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """The row is committed. ``state`` is queued, or steering, or cancelled (a steer of a turn that just was)."""

    state: TurnState = TurnState.QUEUED
    interrupted: bool = False
    """The turn that it interrupts ended by this commit; one that runs is only asked to, one that had ended stays."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The turn has a row already; it was not changed."""

    turn_id: str
    state: TurnState
    content_hash: str
    conversation_id: str
    claim_id: str | None
    order: int
    """Of the admission that it was committed for, maybe by somebody else: a repeated send, or the worker."""


@dataclass(frozen=True, slots=True)
class ConversationRefused:
    """The conversation is another user's, or deleted; nothing was written."""


Admitted = Inserted | Existing | ConversationRefused


# --- start ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A claimed turn that is about to reach its bundle (rule 7)."""

    envelope: TurnEnvelope
    order: int
    accepted_ms: int
    claim_id: str
    worker_id: str
    bundle_version: str
    epoch: int
    partition: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The turn is running under the caller's claim."""

    attempt: int
    parent_turn_id: str | None
    started_ms: int
    conversation_state: Json
    """What the bundle's earlier turns kept (``turn.state``)."""


class Refusal(StrEnum):
    """Why a turn may not start."""

    NOT_QUEUED = "not_queued"
    CANCELLED = "cancelled"
    STALE_EPOCH = "stale_epoch"
    CONVERSATION_BUSY = "conversation_busy"
    REFUSED = "refused"
    """Its conversation is another user's, or deleted; there is no row."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Drop the claim and settle Valkey from ``turn``."""

    reason: Refusal
    turn: StoredTurn | None


StartOutcome = Started | NotStarted


# --- finish -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The terminal state and the content of an attempt."""

    turn_id: str
    claim_id: str
    state: TurnState
    ended_ms: int
    text_by_marker: dict[str, str] = field(default_factory=dict[str, str])
    steps: list[Json] = field(default_factory=list[Json])
    services: list[Json] = field(default_factory=list[Json])
    error: Json | None = None
    bundle_state: Json | None = None
    """Merged key by key into the conversation's state when not None."""
    bundle_version: str | None = None
    """What ran: other than what START was told, if the bundle's files changed in between. None: as START was told."""
    lingers: bool = False
    """Code of the turn may still run: its conversation stays busy until ``Turns.exited``."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end is committed. Steers that were not applied became turns (bounced) or were cancelled (discarded)."""

    bounced: list[str]
    discarded: list[str]


@dataclass(frozen=True, slots=True)
class NotFinished:
    """The claim is not the current one, or the turn ended differently: ``turn`` is what stands."""

    turn: StoredTurn | None


FinishOutcome = Finished | NotFinished


@dataclass(frozen=True, slots=True)
class CancelResult:
    """``found`` is False for an unknown turn or another user's; then nothing else is set."""

    turn_id: str
    found: bool
    state_before: TurnState | None = None
    state_after: TurnState | None = None
    steers_discarded: tuple[str, ...] = ()


# --- conversations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    conversation_id: str
    user_id: str
    title: str
    started_ms: int
    last_activity_ms: int
    pinned: bool
    head_turn_id: str | None
    """The tip of the active branch; None until the first turn starts."""


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Conversation]
    next: str | None
    """The cursor of the next page; None at the end."""


@dataclass(frozen=True, slots=True)
class BranchTurn:
    """A turn of the active branch."""

    turn: StoredTurn
    siblings: tuple[str, ...]
    """The turns with the same parent, itself included, oldest first."""
    steers: tuple[StoredTurn, ...]
    """The steers that it applied, oldest first."""


@dataclass(frozen=True, slots=True)
class ConversationView:
    conversation: Conversation
    branch: list[BranchTurn]
    """From the root to the head."""
    pending: list[StoredTurn]
    """Unfinished turns that are not on the branch, in order."""
    unstarted: list[StoredTurn]
    """Turns that ended before they started (cancelled in the queue, timed out there), in order."""


@dataclass(frozen=True, slots=True)
class ConversationExport:
    conversation: Conversation
    turns: list[StoredTurn]
    """All turns of all branches, in order."""
