"""What users observe, and what they were promised: pure Python, told of everything that shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.model.hosts import Run

from kdcube.protocol.events import TERMINAL_KINDS, Fold, split_line
from kdcube.protocol.turns import TERMINAL, Policy, TurnEnvelope, TurnState

ENDED = TERMINAL | {TurnState.APPLIED}
_NEXT: dict[TurnState, frozenset[TurnState]] = {
    TurnState.QUEUED: frozenset({TurnState.RUNNING, TurnState.CANCELLED, TurnState.FAILED}),
    TurnState.RUNNING: TERMINAL | {TurnState.QUEUED},
    TurnState.STEERING: frozenset({TurnState.QUEUED, TurnState.CANCELLED, TurnState.APPLIED}),
    TurnState.APPLIED: frozenset({TurnState.STEERING}),
}
"""What a row may become next; what is not here is for ever."""


@dataclass(eq=False)
class Message:
    """What one user sent, under one key, over as many requests as it took."""

    envelope: TurnEnvelope
    sent_at: int
    under_way: int = 0
    accepted_at: int | None = None
    refused: list[str] = field(default_factory=list[str])
    unknown: bool = False
    """A request ended without a clear answer."""

    @property
    def surely_refused(self) -> bool:
        return bool(self.refused) and self.accepted_at is None and not self.unknown and not self.under_way


@dataclass(frozen=True)
class Row:
    """What matters of a row of PostgreSQL."""

    turn_id: str
    state: TurnState
    attempt: int
    claim_id: str | None
    answer: str | None
    steer_of: str | None
    conversation_id: str
    message: str
    admitted_order: int


@dataclass
class Log:
    """A log as its readers know it."""

    lines: list[bytes] = field(default_factory=list[bytes])
    closed: bool = False


class Ledger:
    def __init__(self, max_attempts: dict[str, int]) -> None:
        self.messages: list[Message] = []
        self.rows: dict[str, Row] = {}
        self.runs: list[Run] = []
        self.logs: dict[tuple[str, int, int], Log] = {}
        """By turn, life of Valkey and incarnation."""
        self.now = 0
        """Counts what happened."""
        self.lost_at = 0
        """When Valkey was last emptied or rolled back."""
        self.cancelled: set[str] = set()
        """Turns that had not started when their user was told that they are cancelled."""
        self.ever_applied: set[str] = set()
        self._max_attempts = max_attempts

    def of(self, turn_id: str) -> list[Message]:
        return [message for message in self.messages if message.envelope.turn_id == turn_id]

    # --- PostgreSQL ---------------------------------------------------------------------------------------------------

    def see_rows(self, rows: list[Row]) -> None:
        """Every row moves only as the protocol allows; what has ended stays as it is."""
        for row in rows:
            before = self.rows.get(row.turn_id)
            if before is not None and before.state is not row.state:
                assert row.state in _NEXT.get(before.state, ()), f"{before.state} became {row.state}: {row.message}"
            if before is not None and before.state in TERMINAL:
                assert row.answer == before.answer, f"the answer of {row.message} has changed"
            if row.state is TurnState.APPLIED:
                self.ever_applied.add(row.turn_id)
            assert row.attempt >= (before.attempt if before else 0)
            self.rows[row.turn_id] = row
        assert len(rows) == len(self.rows), "a row is gone"

    # --- bundles ------------------------------------------------------------------------------------------------------

    def begins(self, run: Run, envelope: TurnEnvelope) -> None:
        """A bundle gets a turn."""
        turn_id, name = run.turn_id, envelope.text
        earlier = [other for other in self.runs if other.turn_id == turn_id]
        assert run.attempt not in [other.attempt for other in earlier], f"attempt {run.attempt} of {name} ran twice"
        assert len(earlier) < self._max_attempts[envelope.bundle_id], f"{name} ran too often"
        said = [message for message in self.of(turn_id) if message.envelope.text == name]
        assert said, f"nobody sent {name}"
        assert not said[0].surely_refused, f"{name} was refused and runs"
        if not run.lapsed:
            assert turn_id not in self.cancelled, f"{name} was cancelled before it started and runs"
            for other in self.runs:
                if other.alive and not other.lapsed and other.conversation_id == run.conversation_id:
                    raise AssertionError(f"{name} runs beside {other.text}")
            if not earlier:
                self._in_order(said[0])
        self.runs.append(run)

    def _in_order(self, message: Message) -> None:
        """Whatever was accepted in this conversation before this one was sent has started, or ended."""
        if message.envelope.policy is Policy.INTERRUPT:
            return
        for other in self.messages:
            if (
                other.envelope.conversation_id == message.envelope.conversation_id
                and other.accepted_at is not None
                and self.lost_at < other.sent_at
                and other.accepted_at < message.sent_at
                and other.envelope.turn_id != message.envelope.turn_id
                and other.envelope.turn_id not in self.ever_applied
            ):
                row = self.rows[other.envelope.turn_id]
                waits = row.state is TurnState.QUEUED and row.attempt == 0
                assert not waits, f"{message.envelope.text} overtakes {other.envelope.text}"

    # --- logs ---------------------------------------------------------------------------------------------------------

    def see_log(self, turn_id: str, life: int, incarnation: int, lines: list[bytes], tail: int, closed: bool) -> None:
        """What a reader has seen stays as it was; nothing follows the end."""
        log = self.logs.setdefault((turn_id, life, incarnation), Log())
        assert len(lines) == tail, f"a log of {tail} events has {len(lines)}"
        assert lines[: len(log.lines)] == log.lines, "a log has changed behind its readers"
        assert not log.closed or len(lines) == len(log.lines), "a log goes on behind its end"
        kinds = [split_line(line)[0] for line in lines]
        ends = [number for number, kind in enumerate(kinds) if kind in TERMINAL_KINDS]
        assert ends == ([tail - 1] if closed else []), f"a log has its ends at {ends} of {tail}"
        log.lines, log.closed = lines, closed

    # --- in the end ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """All is back and quiet: every promise can be looked at."""
        for message in self.messages:
            turn_id, name = message.envelope.turn_id, message.envelope.text
            row = self.rows.get(turn_id)
            if message.accepted_at is not None:
                assert row is not None, f"{name} was accepted and is lost"
                assert row.message == name, f"{name} was accepted and is stored as {row.message}"
            if message.surely_refused:
                assert row is None or row.message != name, f"{name} was refused and is stored"
        for row in self.rows.values():
            assert row.state in ENDED, f"{row.message} is {row.state} for ever"
            self._ended_well(row)
        for (turn_id, _, _), log in self.logs.items():
            row = self.rows[turn_id]
            if log.closed and row.state is not TurnState.APPLIED:
                self._says_what_is_stored(log, row)

    def _ended_well(self, row: Row) -> None:
        runs = [run for run in self.runs if run.turn_id == row.turn_id]
        last = [run for run in runs if run.attempt == row.attempt]
        if row.state is TurnState.COMPLETED:
            assert last and last[0].ended == "completed", f"{row.message} did not run to its end and is completed"
            assert row.answer == last[0].said, f"{row.message} said {last[0].said!r}, stored is {row.answer!r}"
        elif row.answer:
            assert any(run.said.startswith(row.answer) for run in runs), f"{row.answer!r} was never said"
        if row.steer_of is not None:
            takers = [run for run in self.runs if row.turn_id in run.took]
            assert len(takers) <= 1, f"the steer {row.message} was taken twice"
            if row.state is TurnState.APPLIED:
                steered = [run for run in self.runs if run.turn_id == row.steer_of and run.ended == "completed"]
                finished = self.rows[row.steer_of].state is TurnState.COMPLETED
                if finished and steered and steered[-1].attempt == self.rows[row.steer_of].attempt == 1:
                    assert takers, f"the steer {row.message} is applied and nobody has it"
            else:
                assert not takers or not runs, f"the steer {row.message} was taken and ran as well"

    def _says_what_is_stored(self, log: Log, row: Row) -> None:
        fold = Fold(row.turn_id)
        fold.add_all(log.lines)
        assert fold.state == row.state, f"{row.message} ended as {fold.state}, stored is {row.state}"
        if row.state is TurnState.COMPLETED:
            assert fold.text() == row.answer, f"the log of {row.message} says {fold.text()!r}, stored is {row.answer!r}"


def a_row(record: Any) -> Row:
    return Row(**{**dict(record), "state": TurnState(record["state"])})
