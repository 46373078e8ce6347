"""Terminal lines."""

from __future__ import annotations

import pytest

from kdcube.protocol.endings import terminal_line
from kdcube.protocol.events import TERMINAL_KINDS, Fold, decode_body, split_line
from kdcube.protocol.turns import TERMINAL, TurnState


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_each_end_is_one_terminal_line_that_folds_to_it(state: TurnState) -> None:
    error = {"code": "x", "message": "y"} if state in (TurnState.FAILED, TurnState.INTERRUPTED) else None
    line = terminal_line(state, ts_ms=1_700_000_000_000, attempt=2, answer="so", error=error, followups=["more"])
    kind, _ = split_line(line)
    assert kind in TERMINAL_KINDS and (kind == b"error") == (error is not None)
    body = decode_body(line)
    assert body["type"] == f"chat.{kind.decode()}"
    assert body["attempt"] == 2
    assert body["data"]["answer"] == body["data"]["final_answer"] == "so"
    assert body["data"]["followups"] == ["more"]
    assert ("error" in body["data"]) == (error is not None)
    assert body["event"]["status"] == {"completed": "completed", "cancelled": "cancelled"}.get(state, "error")
    fold = Fold("t")
    fold.add(line)
    assert (fold.state, fold.error) == (state, error)


def test_what_is_no_end_has_no_line() -> None:
    with pytest.raises(ValueError, match="running"):
        terminal_line(TurnState.RUNNING, ts_ms=0, attempt=1)
