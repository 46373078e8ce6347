"""Lines that ingress writes itself: of stored turns, snapshots, notices and queue positions."""

from __future__ import annotations

import msgspec

from kdcube.postgres.records import StoredTurn
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.events import Kind, Snapshot, encode_line
from kdcube.protocol.heads import head_of
from kdcube.protocol.turns import TERMINAL, TurnState
from kdcube.redis.queue import QueuePosition

ENDED = TERMINAL | {TurnState.APPLIED}
"""States after which PostgreSQL alone can tell the whole of a turn. An applied steer is told by the turn it steered."""


def snapshot_line(snapshot: Snapshot, *, now_ms: int) -> bytes:
    """What replaces everything that a client showed of a turn (rule 20)."""
    return encode_line(
        Kind.SNAPSHOT, "turn.snapshot", ts_ms=now_ms, attempt=snapshot.attempt, data=msgspec.to_builtins(snapshot)
    )


def stored_lines(turn: StoredTurn, *, now_ms: int) -> list[bytes]:
    """A turn that has ended, as the two events of a log that is no more: what it said, and how it ended."""
    ts_ms = turn.ended_ms or now_ms
    text = dict(turn.text_by_marker)
    if turn.answer and "answer" not in text:
        text["answer"] = turn.answer
    snapshot = Snapshot(
        turn_id=turn.turn_id,
        attempt=turn.attempt,
        state=turn.state,
        text=text,
        steps=turn.steps,
        services=turn.services,
        error=turn.error,
    )
    if turn.state is TurnState.APPLIED:
        data = {"state": turn.state, "steered_turn_id": turn.steer_of}
        ending = encode_line(Kind.COMPLETE, "chat.complete", ts_ms=ts_ms, attempt=turn.attempt, data=data)
    else:
        ending = terminal_line(
            turn.state,
            ts_ms=ts_ms,
            attempt=turn.attempt,
            answer=turn.answer or "",
            error=turn.error,
            services=turn.services,
        )
    return [snapshot_line(snapshot, now_ms=ts_ms), ending]


def stored_head(turn: StoredTurn, *, tenant: str, project: str) -> bytes:
    """The head of a log that has none: its turn never started, or the log is gone."""
    return head_of(
        request_id=turn.request_id,
        tenant=tenant,
        project=project,
        user_id=turn.user_id,
        user_type=turn.user_type,
        session_id=turn.session_id,
        conversation_id=turn.conversation_id,
        client_turn_id=turn.client_turn_id,
        turn_id=turn.turn_id,
        bundle_id=turn.bundle_id,
        bundle_version=turn.bundle_version,
    )


def resynchronised_line(*, now_ms: int) -> bytes:
    """Says to clients that know no ``resync`` that what they show may miss a part; the end brings the whole answer."""
    step = {
        "agent": "kdcube",
        "step": "stream.resync",
        "status": "completed",
        "title": "The stream was resynchronised",
        "markdown": "The stream was resynchronised. The complete answer follows at the end of the turn.",
    }
    return encode_line(Kind.STEP, "stream.resync", ts_ms=now_ms, attempt=0, event=step)


def position_line(position: QueuePosition, *, now_ms: int) -> bytes:
    """Where a turn stands in the queue (rule 26)."""
    data = {"position": position.position, "eta_s": round(position.eta_s, 1)}
    return encode_line(Kind.SERVICE, "queue.position", ts_ms=now_ms, attempt=0, data=data)
