"""The commit of a batch of admissions (rules 1 to 4)."""

from __future__ import annotations

from dataclasses import dataclass

from kdcube.postgres.database import Database, Fetch
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import Admission, Admitted, ConversationRefused, Existing, Inserted
from kdcube.postgres.rows import columns, storable, title_of
from kdcube.protocol.turns import TurnState, encode_envelope


@dataclass(frozen=True, slots=True)
class EncodedAdmission:
    """An admission with its row, encoded before it joins a batch: what cannot be encoded harms its own caller only."""

    admission: Admission
    row: tuple[object, ...]

    @property
    def turn_id(self) -> str:
        return self.admission.envelope.turn_id


def encode_admission(admission: Admission) -> EncodedAdmission:
    """The row in the order of admit_turns. Raises UnicodeEncodeError for text with a lone surrogate."""
    turn = admission.envelope
    row = (
        turn.turn_id,
        turn.client_turn_id,
        turn.conversation_id,
        turn.user_id,
        turn.user_type.value,
        turn.session_id,
        turn.request_id,
        turn.bundle_id,
        turn.content_hash,
        encode_envelope(turn),
        (TurnState.STEERING if admission.steer_of else TurnState.QUEUED).value,
        admission.order,
        admission.accepted_ms,
        turn.parent_turn_id,
        admission.steer_of,
        storable(turn.text),
        title_of(turn.text),
    )
    return EncodedAdmission(admission, row)


class AdmitTurns:
    """Writes the rows of turns of one (tenant, project) ``scope``."""

    def __init__(self, database: Database, scope: tuple[str, str]) -> None:
        self._database = database
        self._scope = scope
        self._sql = load_queries("turns")

    async def commit(self, batch: list[EncodedAdmission]) -> list[Admitted]:
        """An outcome for each admission, in order. Of several for one turn the first is inserted, if it is new."""
        first: dict[str, EncodedAdmission] = {}
        for item in batch:
            first.setdefault(item.turn_id, item)

        async def write(fetch: Fetch) -> dict[str, Inserted]:
            return await self._write(fetch, list(first.values()))

        alone = all(item.admission.steer_of is None and item.admission.interrupts is None for item in first.values())
        inserted = await (write(self._database.fetch) if alone else self._database.transact(write))
        existing = await self._existing(
            [turn_id for turn_id in first if turn_id not in inserted or len(first) < len(batch)]
        )
        return [await self._outcome(item, first, inserted, existing, len(batch)) for item in batch]

    async def _outcome(
        self,
        item: EncodedAdmission,
        first: dict[str, EncodedAdmission],
        inserted: dict[str, Inserted],
        existing: dict[str, Existing],
        batch_size: int,
    ) -> Admitted:
        if item.turn_id in inserted and first[item.turn_id] is item:
            return inserted[item.turn_id]
        if item.turn_id in existing:
            return existing[item.turn_id]
        if batch_size == 1:
            return ConversationRefused()
        # In a batch the first user to name a conversation gets it, even if it turns out to be another's.
        return (await self.commit([item]))[0]

    async def _write(self, fetch: Fetch, batch: list[EncodedAdmission]) -> dict[str, Inserted]:
        """The turns that were inserted. Steers and interrupts need more than one statement."""
        rows = await fetch(self._sql["admit_turns"], *self._scope, *columns([item.row for item in batch], 17))
        ids = {row["turn_id"] for row in rows}
        new = [item.admission for item in batch if item.turn_id in ids]
        states = {
            admission.envelope.turn_id: TurnState.STEERING if admission.steer_of else TurnState.QUEUED
            for admission in new
        }
        interrupts = [
            (admission.interrupts, admission.envelope.user_id, admission.envelope.conversation_id)
            for admission in new
            if admission.interrupts
        ]
        ended: set[str] = set()
        steered = sorted({admission.steer_of for admission in new if admission.steer_of})
        if interrupts:
            ended_ms = min(admission.accepted_ms for admission in new if admission.interrupts)
            for row in await fetch(self._sql["cancel_turns"], *self._scope, *columns(interrupts, 3), ended_ms):
                if row["state_after"] == TurnState.CANCELLED != row["state_before"]:
                    ended.add(row["turn_id"])
        if steered:
            await fetch(self._sql["count_steers"], *self._scope, steered)
        if interrupts or steered:
            targets = [*steered, *(turn_id for turn_id, *_ in interrupts)]
            for row in await fetch(self._sql["settle_steers"], *self._scope, None, targets, 0):
                if row["turn_id"] in states:
                    states[row["turn_id"]] = TurnState(row["state"])
        inserted: dict[str, Inserted] = {}
        for admission in new:  # of several that interrupt one turn the first ended it
            turn_id = admission.envelope.turn_id
            inserted[turn_id] = Inserted(states[turn_id], interrupted=admission.interrupts in ended)
            ended.discard(admission.interrupts or "")
        return inserted

    async def _existing(self, turn_ids: list[str]) -> dict[str, Existing]:
        if not turn_ids:
            return {}
        rows = await self._database.fetch(self._sql["existing_turns"], *self._scope, turn_ids)
        return {
            row["turn_id"]: Existing(
                row["turn_id"],
                TurnState(row["state"]),
                row["content_hash"],
                row["conversation_id"],
                row["claim_id"],
                row["admitted_order"],
            )
            for row in rows
        }
