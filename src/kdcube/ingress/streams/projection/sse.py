"""The KDCube client protocol: server-sent events with one JSON envelope each.

On the hot path nothing is decoded: the frame of an event is its line, spliced behind the head of its log.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kdcube.protocol.events import TERMINAL_KINDS, Kind, Snapshot, decode_body

_NAMES: dict[bytes, bytes] = {
    kind.encode(): name
    for kind, name in {
        Kind.START: b"chat_start",
        Kind.STEP: b"chat_step",
        Kind.DELTA: b"chat_delta",
        Kind.SERVICE: b"chat_service",
        Kind.COMPLETE: b"chat_complete",
        Kind.ERROR: b"chat_error",
        Kind.SNAPSHOT: b"resync",
    }.items()
}
_UNKNOWN = b"chat_service"
_ENDED = b"e"
"""In a cursor, behind the offset of a terminal event."""
_IN_LOG: dict[bytes, bytes] = {
    kind: (_ENDED if kind in TERMINAL_KINDS else b"") + b"\nevent: " + name for kind, name in _NAMES.items()
}
_UNKNOWN_IN_LOG = b"\nevent: " + _UNKNOWN
_JSON = msgspec.json.Encoder()

KEEP_ALIVE = b": keep-alive\n\n"


class KDCubeSse:
    """The projection for ``/sse/stream`` and ``/turns/{id}/stream``."""

    def frame(self, head: bytes, incarnation: int, offset: int, line: bytes) -> bytes:
        kind, _, body = line.partition(b" ")
        if kind == b"snapshot":
            body = _resync(head, incarnation, offset, line)
        return b'%d%b\ndata: {%b"offset":%d,"incarnation":%d,%b\n\n' % (
            offset,
            _IN_LOG.get(kind, _UNKNOWN_IN_LOG),
            head + b"," if head else head,
            offset,
            incarnation,
            body[1:],
        )

    def aside(self, head: bytes, line: bytes) -> bytes:
        kind, _, body = line.partition(b" ")
        return b"event: %b\ndata: {%b%b\n\n" % (_NAMES.get(kind, _UNKNOWN), head + b"," if head else head, body[1:])


def event(name: str, data: dict[str, Any], *, id_: bytes | None = None, retry_ms: int | None = None) -> bytes:
    """An event from its parts."""
    lines = [b"event: " + name.encode(), b"data: " + _JSON.encode(data), b"", b""]
    if retry_ms is not None:
        lines.insert(0, b"retry: %d" % retry_ms)
    if id_ is not None:
        lines.insert(0, b"id: " + id_)
    return b"\n".join(lines)


def _resync(head: bytes, incarnation: int, offset: int, line: bytes) -> bytes:
    """The envelope of a snapshot, with both ids of its turn and all of its members, present or not."""
    body = decode_body(line)
    snapshot = msgspec.convert(body["data"], Snapshot)
    client_turn_id = snapshot.turn_id
    if head:
        client_turn_id = msgspec.json.decode(b"{" + head + b"}")["conversation"]["turn_id"]
    body["data"] = {
        "turn_id": client_turn_id,
        "task_id": snapshot.turn_id,
        "attempt": snapshot.attempt,
        "incarnation": incarnation,
        "offset": offset,
        "state": snapshot.state,
        "text": snapshot.text,
        "steps": snapshot.steps,
        "services": snapshot.services,
        "error": snapshot.error,
    }
    return _JSON.encode(body)
