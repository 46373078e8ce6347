"""The commit of a batch of endings (rules 4 and 10)."""

from __future__ import annotations

from dataclasses import dataclass

from kdcube.postgres.database import Database, Row
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import Ending, Finished, FinishOutcome, NotFinished
from kdcube.postgres.rows import columns, storable, stored_turn, to_json, usage_of
from kdcube.protocol.errors import StoreUnavailable
from kdcube.protocol.turns import TERMINAL, TurnState

_ROUNDS = 8
"""A steer that arrives under an ending costs a round."""


@dataclass(frozen=True, slots=True)
class EncodedEnding:
    """An ending with its row, encoded before it joins a batch: what cannot be encoded harms its own caller only."""

    ending: Ending
    row: tuple[object, ...]


def encode_ending(ending: Ending) -> EncodedEnding:
    """Raises ValueError when the state is not terminal, TypeError when the content is no JSON."""
    if ending.state not in TERMINAL:
        raise ValueError(f"{ending.state} is no terminal state")
    usage = usage_of(ending.services)
    return EncodedEnding(
        ending,
        (
            ending.turn_id,
            ending.claim_id,
            ending.state.value,
            ending.ended_ms,
            storable(ending.text_by_marker.get("answer", "")),
            to_json(ending.text_by_marker),
            to_json(ending.steps),
            to_json(ending.services),
            None if ending.error is None else to_json(ending.error),
            None if ending.bundle_state is None else to_json(ending.bundle_state),
            to_json(usage) if usage else None,
            ending.bundle_version,
            ending.lingers,
        ),
    )


class FinishTurns:
    """Ends turns of one (tenant, project) ``scope``."""

    def __init__(self, database: Database, scope: tuple[str, str]) -> None:
        self._database = database
        self._scope = scope
        self._sql = load_queries("turns")

    async def commit(self, batch: list[EncodedEnding]) -> list[FinishOutcome]:
        """An outcome for each ending, in order. Of several for one turn, each is answered by what stands in the end."""
        outcomes: dict[int, FinishOutcome] = {}
        for _ in range(_ROUNDS):
            left = {item.ending.turn_id: position for position, item in enumerate(batch) if position not in outcomes}
            if not left:
                return [outcomes[position] for position in range(len(batch))]
            rows = await self._database.fetch(
                self._sql["finish_turns"],
                *self._scope,
                *columns([batch[position].row for position in left.values()], 13),
            )
            for row in rows:
                outcomes[left[row["turn_id"]]] = _finished(row)
            missed = [position for position in range(len(batch)) if position not in outcomes]
            if missed:
                await self._explain(batch, missed, outcomes)
        raise StoreUnavailable("postgres", "a turn could not be ended: steers kept arriving")

    async def _explain(self, batch: list[EncodedEnding], missed: list[int], outcomes: dict[int, FinishOutcome]) -> None:
        """Leaves out those that may be tried again: steers came in between."""
        ids = list({batch[position].ending.turn_id for position in missed})
        facts = {
            row["turn_id"]: row for row in await self._database.fetch(self._sql["finish_facts"], *self._scope, ids)
        }
        for position in missed:
            ending = batch[position].ending
            row = facts.get(ending.turn_id)
            if row is None:
                outcomes[position] = NotFinished(None)
            elif row["claim_id"] == ending.claim_id and row["state"] == ending.state:
                outcomes[position] = _finished(row)
            elif row["claim_id"] != ending.claim_id or row["state"] != TurnState.RUNNING:
                outcomes[position] = NotFinished(stored_turn(row))


def _finished(row: Row) -> Finished:
    return Finished(list(row["bounced"]), list(row["discarded"]))
