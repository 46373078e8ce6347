"""Values at the border of PostgreSQL: text and JSON that it can hold, and rows as records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kdcube.postgres.database import Row
from kdcube.postgres.records import Conversation, HistoryTurn, Json, StoredTurn, Unfinished
from kdcube.protocol.turns import TurnState, decode_envelope

TITLE_MAX_CHARS = 80

_PLAIN = tuple(
    name
    for name in StoredTurn.__dataclass_fields__
    if name not in {"state", "text_by_marker", "steps", "services", "error", "bundle_state", "usage"}
)


def storable(text: str) -> str:
    """PostgreSQL's text holds neither NUL nor lone surrogates; they become U+FFFD, so that no message is refused."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_json(value: Any) -> str:
    """JSON that jsonb accepts. Raises TypeError for what JSON cannot say."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = b"\\u0000"
    if b"\\u0000" in encoded:
        encoded = msgspec.json.encode(_scrubbed(msgspec.to_builtins(value)))
    return encoded.decode()


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def from_json(text: str | None, default: Any = None) -> Any:
    return default if text is None else msgspec.json.decode(text)


def title_of(message: str) -> str:
    """The first line that says something, cut at a word to TITLE_MAX_CHARS."""
    line = next((line for line in (" ".join(raw.split()) for raw in message.splitlines()) if line), "")
    if len(line) <= TITLE_MAX_CHARS:
        return storable(line)
    head = line[: TITLE_MAX_CHARS - 1]
    cut = head.rfind(" ")
    return storable((head[:cut] if cut > TITLE_MAX_CHARS // 2 else head) + "…")


def stored_turn(row: Row) -> StoredTurn:
    return StoredTurn(
        **{name: row[name] for name in _PLAIN},
        state=TurnState(row["state"]),
        text_by_marker=from_json(row["text_by_marker"], {}),
        steps=from_json(row["steps"], []),
        services=from_json(row["services"], []),
        error=from_json(row["error"]),
        bundle_state=from_json(row["bundle_state"]),
        usage=from_json(row["usage"], []),
    )


def unfinished(row: Row) -> Unfinished:
    try:
        envelope = decode_envelope(row["envelope"])
    except msgspec.MsgspecError:  # one such row must not keep all others from being looked after
        envelope = None
    return Unfinished(stored_turn(row), envelope)


def history_turn(row: Row) -> HistoryTurn:
    root = row["root_envelope"]
    return HistoryTurn(
        row["turn_id"],
        row["message"],
        row["answer"] or "",
        TurnState(row["state"]),
        row["ended_ms"],
        tuple(row["steers"]),
        () if root is None else decode_envelope(root).history,
    )


def conversation(row: Row) -> Conversation:
    return Conversation(
        conversation_id=row["conversation_id"],
        user_id=row["user_id"],
        title=row["title"],
        started_ms=row["started_ms"],
        last_activity_ms=row["last_activity_ms"],
        pinned=row["pinned"],
        head_turn_id=row["head_turn_id"],
    )


def usage_of(services: list[Json]) -> list[Json]:
    """The data of each ``turn.usage`` among the services kept."""
    return [service.get("data", {}) for service in services if service.get("type") == "turn.usage"]


def columns(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    """Rows turned into the arrays that ``unnest`` takes; ``width`` guards the order that both sides share."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    assert len(turned) == width
    return turned
