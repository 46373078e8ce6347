"""The commit of a batch of STARTs (rule 7)."""

from __future__ import annotations

from kdcube.postgres.admitting import AdmitTurns, encode_admission
from kdcube.postgres.database import Database, Row, RowRejected
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import (
    Admission,
    ConversationRefused,
    NotStarted,
    Refusal,
    Started,
    StartOutcome,
    StartRequest,
)
from kdcube.postgres.rows import columns, from_json, stored_turn
from kdcube.protocol.turns import TurnState

_ROUNDS = 3
"""One for the usual case, one after rows were written that were missing, one for a race with another worker."""


class StartTurns:
    """Starts turns of one (tenant, project) ``scope``."""

    def __init__(self, database: Database, scope: tuple[str, str], admit: AdmitTurns) -> None:
        self._database = database
        self._scope = scope
        self._admit = admit
        self._sql = load_queries("turns")

    async def commit(self, batch: list[StartRequest]) -> list[StartOutcome]:
        """An outcome for each request, in order."""
        outcomes: list[StartOutcome | None] = [None] * len(batch)
        for last in (False,) * (_ROUNDS - 1) + (True,):
            left = [position for position, outcome in enumerate(outcomes) if outcome is None]
            if not left:
                break
            await self._round(batch, left, outcomes, last)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _round(
        self, batch: list[StartRequest], left: list[int], outcomes: list[StartOutcome | None], last: bool
    ) -> None:
        started = await self._start([batch[position] for position in left])
        for position in left:
            row = started.get(batch[position].envelope.turn_id)
            if row is not None and row["claim_id"] == batch[position].claim_id:
                outcomes[position] = _started(row)
        missed = [position for position in left if outcomes[position] is None]
        if not missed:
            return
        facts = await self._facts([batch[position] for position in missed])
        absent: list[int] = []
        steering: list[str] = []
        for position in missed:
            request = batch[position]
            row = facts.get(request.envelope.turn_id)
            if row is None:
                absent.append(position)
            elif row["state"] == TurnState.STEERING and not last:
                steering.append(request.envelope.turn_id)
            else:
                outcomes[position] = _verdict(row, request, last)
        if steering:  # a steer whose turn has ended is a turn
            await self._database.fetch(self._sql["settle_steers"], *self._scope, steering, None, 0)
        if absent:
            requests = [batch[position] for position in absent]
            written = await self._admit.commit(
                [
                    encode_admission(Admission(request.envelope, request.order, request.accepted_ms))
                    for request in requests
                ]
            )
            for position, outcome in zip(absent, written, strict=True):
                if last or isinstance(outcome, ConversationRefused):
                    outcomes[position] = NotStarted(Refusal.REFUSED, None)

    async def _start(self, batch: list[StartRequest]) -> dict[str, Row]:
        rows = [
            (
                request.envelope.turn_id,
                request.envelope.conversation_id,
                request.claim_id,
                request.worker_id,
                request.bundle_version,
                request.envelope.parent_turn_id,
                request.envelope.root,
                request.epoch,
                request.partition,
            )
            for request in batch
        ]
        try:
            started = await self._database.fetch(self._sql["start_turns"], *self._scope, *columns(rows, 9))
        except RowRejected as error:
            if error.constraint != "turns_one_running" or len(batch) > 1:
                raise
            return {}  # another worker started a turn of this conversation meanwhile
        return {row["turn_id"]: row for row in started}

    async def _facts(self, batch: list[StartRequest]) -> dict[str, Row]:
        unique = {request.envelope.turn_id: request for request in batch}
        rows = await self._database.fetch(
            self._sql["start_facts"],
            *self._scope,
            list(unique),
            [request.partition for request in unique.values()],
            [request.epoch for request in unique.values()],
        )
        return {row["turn_id"]: row for row in rows}


def _started(row: Row) -> Started:
    return Started(row["attempt"], row["parent_turn_id"], row["started_ms"], from_json(row["conversation_state"], {}))


def _verdict(row: Row, request: StartRequest, last: bool) -> StartOutcome | None:
    """Why a turn with a row did not start; None when it may be tried again."""
    state = TurnState(row["state"])
    if state is TurnState.RUNNING and row["claim_id"] == request.claim_id:
        return _started(row)
    reason: Refusal | None = None
    if row["conversation_id"] != request.envelope.conversation_id:
        reason = Refusal.REFUSED
    elif state is TurnState.CANCELLED:
        reason = Refusal.CANCELLED
    elif state is not TurnState.QUEUED:
        reason = Refusal.NOT_QUEUED
    elif not row["epoch_current"]:
        reason = Refusal.STALE_EPOCH
    elif row["busy"] or last:
        reason = Refusal.CONVERSATION_BUSY
    return reason and NotStarted(reason, stored_turn(row))
