"""Stored turns and conversations as clients see them: plain JSON objects, times in ISO 8601."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from kdcube.postgres.records import BranchTurn, Conversation, ConversationExport, ConversationView, StoredTurn

Json = dict[str, Any]

_JSON = msgspec.json.Encoder()


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def conversation_item(conversation: Conversation) -> Json:
    """An item of the list."""
    return {
        "conversation_id": conversation.conversation_id,
        "title": conversation.title,
        "started_at": iso(conversation.started_ms),
        "last_activity_at": iso(conversation.last_activity_ms),
        "pinned": conversation.pinned,
    }


def turn_view(turn: StoredTurn) -> Json:
    """A turn. ``task_id`` is the internal id, ``turn_id`` the client's; ``parent_turn_id`` is internal."""
    services = turn.services
    return {
        "task_id": turn.turn_id,
        "turn_id": turn.client_turn_id,
        "state": turn.state,
        "attempt": turn.attempt,
        "parent_turn_id": turn.parent_turn_id,
        "bundle": {"id": turn.bundle_id, "version": turn.bundle_version},
        "message": turn.message,
        "answer": turn.answer or "",
        "text": {marker: text for marker, text in turn.text_by_marker.items() if marker != "answer"},
        "steps": turn.steps,
        "citations": _data_of(services, "turn.citations"),
        "followups": _data_of(services, "turn.followups"),
        "artifacts": _data_of(services, "turn.artifact"),
        "usage": turn.usage,
        "error": turn.error,
        "accepted_at": iso(turn.accepted_ms),
        "started_at": _iso_or_none(turn.started_ms),
        "ended_at": _iso_or_none(turn.ended_ms),
        "feedback": (
            None
            if turn.feedback_reaction is None and turn.feedback_text is None
            else {"reaction": turn.feedback_reaction, "text": turn.feedback_text}
        ),
    }


def branch_turn_view(shown: BranchTurn) -> Json:
    """A turn of the active branch, with its siblings and what steered it."""
    return {
        **turn_view(shown.turn),
        "siblings": list(shown.siblings),
        "steers": [
            {"task_id": steer.turn_id, "turn_id": steer.client_turn_id, "message": steer.message}
            for steer in shown.steers
        ],
    }


def conversation_view(view: ConversationView) -> Json:
    """A conversation with its active branch, and the turns that wait or never started."""
    return {
        **conversation_item(view.conversation),
        "head_turn_id": view.conversation.head_turn_id,
        "turns": [branch_turn_view(shown) for shown in view.branch],
        "pending": [turn_view(turn) for turn in view.pending],
        "unstarted": [turn_view(turn) for turn in view.unstarted],
    }


def _data_of(services: list[Json], type_: str) -> list[Any]:
    return [service.get("data") for service in services if service.get("type") == type_]


def _iso_or_none(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


# --- export -----------------------------------------------------------------------------------------------------------


def export_json(export: ConversationExport) -> bytes:
    """All turns of all branches."""
    return _JSON.encode({**conversation_item(export.conversation), "turns": [turn_view(turn) for turn in export.turns]})


def export_markdown(export: ConversationExport) -> bytes:
    """All turns of all branches, to be read by people."""
    parts = [f"# {_line(export.conversation.title)}", f"Started {iso(export.conversation.started_ms)}"]
    for turn in export.turns:
        parts += [f"## You, {iso(turn.accepted_ms)}", turn.message]
        if turn.answer or turn.ended_ms is not None:
            parts += [f"## {_line(turn.bundle_id)} ({turn.state})", turn.answer or "_No answer._"]
    return ("\n\n".join(parts) + "\n").encode()


EXPORTS: Mapping[str, tuple[str, Callable[[ConversationExport], bytes]]] = {
    "json": ("application/json", export_json),
    "md": ("text/markdown; charset=utf-8", export_markdown),
}
"""By format: the content type and how it is written."""


def attachment(title: str, suffix: str) -> str:
    """The Content-Disposition of a download named after ``title``: no path, no quote, no control character."""
    plain = re.sub(r"[^A-Za-z0-9._ -]+", "-", title).strip(" .-")[:80] or "conversation"
    full = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', "-", title).strip(" .-")[:80] or "conversation"
    return f"attachment; filename=\"{plain}.{suffix}\"; filename*=UTF-8''{quote(full, safe='')}.{suffix}"


def _line(text: str) -> str:
    return " ".join(text.split()) or "Conversation"
