"""How a turn ends, as an event: the terminal line of its log, wherever it is written (proc, reaper, ingress)."""

from __future__ import annotations

from typing import Any

from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.turns import TERMINAL, TurnState

_WORDS: dict[TurnState, tuple[str, str]] = {
    TurnState.COMPLETED: ("completed", "Done"),
    TurnState.CANCELLED: ("cancelled", "Cancelled"),
    TurnState.FAILED: ("error", "Failed"),
    TurnState.INTERRUPTED: ("error", "Interrupted"),
}


def terminal_line(
    state: TurnState,
    *,
    ts_ms: int,
    attempt: int,
    answer: str = "",
    error: dict[str, str] | None = None,
    **extra: Any,
) -> bytes:
    """The line that ends a log: ``complete`` for completed and cancelled, ``error`` for failed and interrupted.

    ``error`` is ``{"code", "message"}``, fit for a user's eyes. ``extra`` are further members of ``data`` (followups,
    citations); those that are None are left out. ``final_answer`` repeats ``answer`` for clients that read that name.
    Raises ValueError when ``state`` is not terminal.
    """
    if state not in TERMINAL:
        raise ValueError(f"{state} ends no turn")
    status, title = _WORDS[state]
    data: dict[str, Any] = {"state": state, "answer": answer, "final_answer": answer}
    data.update({name: value for name, value in {"error": error, **extra}.items() if value is not None})
    ended_well = state in (TurnState.COMPLETED, TurnState.CANCELLED)
    return encode_line(
        Kind.COMPLETE if ended_well else Kind.ERROR,
        "chat.complete" if ended_well else "chat.error",
        ts_ms=ts_ms,
        attempt=attempt,
        event={"agent": "bundle", "step": "turn", "status": status, "title": title},
        data=data,
    )
