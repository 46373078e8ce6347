"""What outcomes and stored rows become: terminal states, terminal lines, a bundle's history."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from kdcube.postgres.records import HistoryTurn, StoredTurn
from kdcube.postgres.turns import Turns
from kdcube.proc.bundles.jobs import Cancelled, Completed, Failed, HistoryItem, HostLost, LostReason, Outcome
from kdcube.proc.log_writer import OutputLimit, UnfitEvent
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.turns import EarlierMessage, TurnState
from kdcube.sdk.explaining import UNEXPECTED

log = structlog.get_logger()

_INTERRUPTED: Mapping[LostReason, str] = {
    "idle_limit": "The assistant said nothing for too long and was stopped.",
    "wall_limit": "The assistant took too long and was stopped.",
    "no_beat": "The assistant stopped responding.",
    "memory_limit": "The assistant took too much memory and was stopped.",
    "process_limit": "The assistant started too many processes and was stopped.",
    "temp_limit": "The assistant wrote too much to the disk and was stopped.",
}
"""What a user reads. One that is stopped takes all turns of its process with it, so nobody's message is to blame."""


def verdict(outcome: Outcome | KDCubeError, bundle_id: str) -> tuple[TurnState, dict[str, Any] | None]:
    """The terminal state and the error of an outcome; what a bundle did not mean for the user is logged."""
    match outcome:
        case Completed():
            return TurnState.COMPLETED, None
        case Cancelled():
            return TurnState.CANCELLED, None
        case Failed(code, message, detail=detail):
            if detail:
                log.error("a bundle failed", bundle=bundle_id, code=code, detail=detail)
            return TurnState.FAILED, {"code": code, "message": message}
        case HostLost("unresponsive_cancel"):
            return TurnState.CANCELLED, None
        case HostLost(reason):
            message = _INTERRUPTED.get(reason, "The turn was interrupted.")
            return TurnState.INTERRUPTED, {"code": reason, "message": message}
        case UnfitEvent():
            log.error("a bundle failed", bundle=bundle_id, code="bundle_error", detail=str(outcome))
            return TurnState.FAILED, {"code": "bundle_error", "message": UNEXPECTED}
        case OutputLimit():
            return TurnState.FAILED, {"code": "output_limit", "message": "The answer is too long."}
        case _:
            return TurnState.INTERRUPTED, {"code": "lease_lost", "message": "The turn was interrupted."}


def line_of(turn: StoredTurn) -> bytes:
    """The terminal line of a turn, or of an applied steer, that PostgreSQL knows as ended."""
    ts_ms = turn.ended_ms or time.time_ns() // 1_000_000
    if turn.state is TurnState.APPLIED:  # what came of it is told by the turn that it steered
        data = {"state": turn.state, "steered_turn_id": turn.steer_of}
        return encode_line(Kind.COMPLETE, "chat.complete", ts_ms=ts_ms, attempt=turn.attempt, data=data)
    return terminal_line(
        turn.state,
        ts_ms=ts_ms,
        attempt=turn.attempt,
        answer=turn.answer or "",
        error=turn.error,
        services=turn.services,
    )


async def discarded_steers(turns: Turns, turn: StoredTurn) -> list[str]:
    """The steers that were cancelled with a turn that PostgreSQL knows as ended."""
    if turn.state is not TurnState.CANCELLED:
        return []
    return [steer.turn_id for steer in await turns.steers(turn.turn_id, TurnState.CANCELLED)]


def told_before(messages: Iterable[EarlierMessage]) -> list[HistoryItem]:
    """What the client of a conversation's first turn told of the time before it. To a bundle it looks like the rest."""
    return [HistoryItem(message.role, message.text) for message in messages]


def as_history(turns: list[HistoryTurn]) -> list[HistoryItem]:
    """The messages before a turn, oldest first. A steer that was applied stands after the message that it steered."""
    items: list[HistoryItem] = []
    for turn in turns:
        items.extend(told_before(turn.before))
        items.append(HistoryItem("user", turn.text, turn.turn_id))
        items.extend(HistoryItem("user", steer, turn.turn_id) for steer in turn.steers)
        if turn.answer:
            items.append(HistoryItem("assistant", turn.answer, turn.turn_id))
    return items
