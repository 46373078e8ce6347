"""The events of a turn as they stand in its log: one line each, encoded once by proc, neutral to client protocols.

A line is ``kind SP json-object``, without a line feed: readers route by the kind and pass the object through without
decoding it. The object has ``type`` (the semantic type), ``timestamp`` (ISO 8601), ``ts`` (milliseconds), ``attempt``
and, by kind, ``event``, ``data``, ``delta``, ``extra``. What stays the same through an attempt (service, conversation,
bundle) is the *head* of the log and is joined to each event by the projection that shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from kdcube.protocol.turns import TurnState


class Kind(StrEnum):
    """The first word of a line."""

    START = "start"
    STEP = "step"
    DELTA = "delta"
    SERVICE = "service"
    SNAPSHOT = "snapshot"
    """The first event of a new incarnation of a log: what the turn had said before."""
    COMPLETE = "complete"
    """Terminal: the turn ended as completed or cancelled."""
    ERROR = "error"
    """Terminal: the turn ended as failed or interrupted."""


TERMINAL_KINDS = frozenset({b"complete", b"error"})

_JSON = msgspec.json.Encoder()


def encode_line(kind: Kind, type_: str, *, ts_ms: int, attempt: int, **members: Any) -> bytes:
    """One line. ``members`` are the optional objects of the envelope; those that are None are left out."""
    body: dict[str, Any] = {
        "type": type_,
        "timestamp": datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "ts": ts_ms,
        "attempt": attempt,
    }
    for name, value in members.items():
        if value is not None:
            body[name] = value
    return kind.encode() + b" " + _JSON.encode(body)


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """``(kind, json object)`` of a line."""
    kind, _, body = line.partition(b" ")
    return kind, body


def decode_body(line: bytes) -> dict[str, Any]:
    """The JSON object of a line."""
    return msgspec.json.decode(split_line(line)[1])


class Snapshot(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a log says up to an offset: enough to replace what a client showed."""

    turn_id: str
    attempt: int = 0
    incarnation: int = 0
    offset: int = 0
    """The offset of the last event that is folded in."""
    state: str = TurnState.QUEUED
    text: dict[str, str] = {}
    """Text per marker, of the latest attempt."""
    steps: list[dict[str, Any]] = []
    """The ``event`` objects of the steps, the latest of each step."""
    services: list[dict[str, Any]] = []
    """``{"type", "data"}`` of service events that a stored turn keeps (citations, followups, usage, artifacts)."""
    error: dict[str, Any] | None = None


class Fold:
    """Folds lines, in order, into a Snapshot. Pure: the same lines give the same one in proc, ingress and reaper."""

    def __init__(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self._reset(0)
        self.offset = 0
        self.incarnation = 0

    def _reset(self, attempt: int) -> None:
        self.attempt = attempt
        self.state: str = TurnState.QUEUED if attempt == 0 else TurnState.RUNNING
        self._text: dict[str, list[str]] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self._services: list[dict[str, Any]] = []
        self.error: dict[str, Any] | None = None

    def add(self, line: bytes) -> None:
        """Folds one line and moves the offset by one."""
        self.offset += 1
        kind, raw = split_line(line)
        body: dict[str, Any] = msgspec.json.decode(raw)
        if kind == b"start":
            self._reset(body["attempt"])
        elif kind == b"delta":
            self.delta(body["delta"]["marker"], body["delta"]["text"])
        elif kind == b"step":
            self.step(body["event"])
        elif kind == b"service":
            self.service(body["type"], body.get("data", {}))
        elif kind == b"snapshot":
            self._restore(msgspec.convert(body["data"], Snapshot))
        elif kind in TERMINAL_KINDS:
            data = body["data"]
            self.state = data["state"]
            self.error = data.get("error")

    def add_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.add(line)

    def delta(self, marker: str, text: str) -> None:
        self._text.setdefault(marker, []).append(text)

    def step(self, event: dict[str, Any]) -> None:
        self._steps[str(event.get("step"))] = event

    def service(self, type_: str, data: dict[str, Any]) -> None:
        if type_ in KEPT_SERVICES:
            self._services.append({"type": type_, "data": data})

    def _restore(self, snapshot: Snapshot) -> None:
        self._reset(snapshot.attempt)
        self.state = snapshot.state
        self._text = {marker: [text] for marker, text in snapshot.text.items()}
        self._steps = {str(event.get("step")): event for event in snapshot.steps}
        self._services = list(snapshot.services)
        self.error = snapshot.error

    def text(self, marker: str = "answer") -> str:
        """All text of a marker in this attempt."""
        parts = self._text.get(marker, [])
        if len(parts) > 1:  # keep later calls cheap
            parts[:] = ["".join(parts)]
        return parts[0] if parts else ""

    def snapshot(self) -> Snapshot:
        return Snapshot(
            turn_id=self.turn_id,
            attempt=self.attempt,
            incarnation=self.incarnation,
            offset=self.offset,
            state=self.state,
            text={marker: self.text(marker) for marker in self._text},
            steps=list(self._steps.values()),
            services=list(self._services),
            error=self.error,
        )


KEPT_SERVICES = frozenset({"turn.citations", "turn.followups", "turn.usage", "turn.artifact"})
"""Service events that a finished turn keeps in PostgreSQL."""
