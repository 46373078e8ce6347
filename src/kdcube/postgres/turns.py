"""The rows of turns: the truth about what was accepted, started and ended (rules 1 to 10)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from kdcube.postgres.admitting import AdmitTurns, EncodedAdmission, encode_admission
from kdcube.postgres.database import Database, Fetch
from kdcube.postgres.finishing import EncodedEnding, FinishTurns, encode_ending
from kdcube.postgres.groupcommit import GroupCommit
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import (
    Admission,
    Admitted,
    CancelResult,
    Ending,
    FinishOutcome,
    HistoryTurn,
    Json,
    StartOutcome,
    StartRequest,
    StoredTurn,
    Unfinished,
)
from kdcube.postgres.rows import columns, history_turn, storable, stored_turn, to_json, unfinished
from kdcube.postgres.starting import StartTurns
from kdcube.protocol.turns import TurnEnvelope, TurnState, decode_envelope


class Turns:
    """The turns of one tenant and project. An async context manager: it owns its group commits.

    Every method raises StoreUnavailable when the outcome is unknown; repeating it is safe.
    """

    def __init__(self, database: Database, tenant: str, project: str, *, max_batch: int = 128) -> None:
        self._database = database
        self._scope = (tenant, project)
        self._sql = load_queries("turns")
        admit = AdmitTurns(database, self._scope)
        self._admissions: GroupCommit[EncodedAdmission, Admitted] = GroupCommit(admit.commit, max_batch=max_batch)
        self._starts: GroupCommit[StartRequest, StartOutcome] = GroupCommit(
            StartTurns(database, self._scope, admit).commit, max_batch=max_batch
        )
        self._endings: GroupCommit[EncodedEnding, FinishOutcome] = GroupCommit(
            FinishTurns(database, self._scope).commit, max_batch=max_batch
        )
        self._groups = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for group in (self._admissions, self._starts, self._endings):
                await stack.enter_async_context(group)
            self._groups = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._groups.aclose()

    async def available(self) -> None:
        """Raises StoreUnavailable when PostgreSQL is known to be away."""
        await self._database.available()

    async def admit(self, admission: Admission) -> Admitted:
        """Commits the turn's row, and its conversation if that is new; grouped. 202 follows.

        With ``steer_of`` the row is steering, or queued (cancelled) when that turn ended (was cancelled) meanwhile.
        ``interrupts`` is cancelled in the same transaction as by ``cancel``.
        """
        return await self._admissions.submit(encode_admission(admission))

    async def start(self, request: StartRequest) -> StartOutcome:
        """queued to running under the claim, writing the row first if it is absent; grouped. Idempotent for a claim.

        The parent becomes the envelope's (none for a root), else the conversation's head, which moves to this turn.
        """
        return await self._starts.submit(request)

    async def finish(self, ending: Ending) -> FinishOutcome:
        """Commits an attempt's end where its claim is current and it runs; grouped. Idempotent for a claim and state.

        In the same transaction the steers that were not applied become queued, or cancelled when the turn was. A repeat
        names those that are queued or cancelled still. Raises ValueError or TypeError for an ending that is none.
        """
        return await self._endings.submit(encode_ending(ending))

    async def exited(self, turn_id: str) -> None:
        """No code of a turn that ended with ``lingers`` runs any more: its conversation may go on."""
        await self._database.fetch(self._sql["exit_turn"], *self._scope, turn_id)

    async def lingering(self) -> list[Unfinished]:
        """Turns that have ended and have not ``exited``."""
        return [unfinished(row) for row in await self._database.fetch(self._sql["lingering_turns"], *self._scope)]

    async def steers(self, turn_id: str, state: TurnState) -> list[TurnEnvelope]:
        """The steers in ``state`` that were sent to a turn, in order."""
        rows = await self._database.fetch(self._sql["steers_of_turn"], *self._scope, turn_id, state.value)
        return [decode_envelope(row["envelope"]) for row in rows]

    async def requeue(self, turn_id: str, claim_id: str, *, epoch: int | None = None, partition: int = 0) -> bool:
        """running to queued for another attempt; its steers stay. False when the claim is not current, when a cancel
        was requested (then end it as cancelled), or when ``epoch``, if given, is not the current one.
        """
        sql, args = self._sql["requeue_turn"], (turn_id, claim_id, epoch, partition)
        return await self._database.fetch_one(sql, *self._scope, *args) is not None

    async def fail_queued(self, turn_id: str, error: Json, ended_ms: int) -> bool:
        """queued to failed: it waited too long, or its bundle is not available. Its steers become turns."""

        async def work(fetch: Fetch) -> bool:
            failed = await fetch(self._sql["fail_queued"], *self._scope, turn_id, to_json(error), ended_ms)
            if failed:
                await fetch(self._sql["settle_steers"], *self._scope, None, [turn_id], 0)
            return bool(failed)

        return await self._database.transact(work)

    async def cancel(self, turn_id: str, user_id: str, ended_ms: int) -> CancelResult:
        """queued, steering: cancelled at once, with their steers. running: ``cancel_requested``, the worker ends it.

        A turn that has ended stays as it is.
        """

        async def work(fetch: Fetch) -> list[CancelResult]:
            return await cancel_turns(fetch, self._scope, user_id, [turn_id], ended_ms)

        results = await self._database.transact(work)
        return results[0] if results else CancelResult(turn_id, found=False)

    async def cancel_conversation(self, conversation_id: str, user_id: str, ended_ms: int) -> list[CancelResult]:
        """``cancel`` for each unfinished turn of a conversation; empty when there is none, or it is another user's."""

        async def work(fetch: Fetch) -> list[CancelResult]:
            return await cancel_unfinished(fetch, self._scope, user_id, conversation_id, ended_ms)

        return await self._database.transact(work)

    async def apply_steers(self, turn_id: str, claim_id: str, steer_ids: Sequence[str]) -> set[str]:
        """steering to applied, only while the turn runs under that claim. Returns those of them that are applied now:
        a repeat names them again.
        """
        rows = await self._database.fetch(self._sql["apply_steers"], *self._scope, turn_id, claim_id, list(steer_ids))
        return {row["turn_id"] for row in rows}

    async def return_steers(self, turn_id: str, claim_id: str, steer_ids: Sequence[str]) -> None:
        """applied to steering again, only while the turn runs under that claim: its end makes turns of them."""
        await self._database.fetch(self._sql["return_steers"], *self._scope, turn_id, claim_id, list(steer_ids))

    async def settle_orphan_steers(self, age_ms: int = 10_000) -> list[str]:
        """steering to queued (cancelled) where the turn steered has ended (was cancelled) or is unknown.

        For the reconciler: what a crash between two commits leaves. ``age_ms`` is by PostgreSQL's clock.
        """
        rows = await self._database.fetch(self._sql["settle_steers"], *self._scope, None, None, age_ms)
        return [row["turn_id"] for row in rows]

    async def get(self, turn_id: str, user_id: str | None = None) -> StoredTurn | None:
        """By internal id; with ``user_id`` only that user's."""
        row = await self._database.fetch_one(self._sql["get_turn"], *self._scope, turn_id, user_id)
        return None if row is None else stored_turn(row)

    async def envelope(self, turn_id: str) -> TurnEnvelope | None:
        row = await self._database.fetch_one(self._sql["get_envelope"], *self._scope, turn_id)
        return None if row is None else decode_envelope(row["envelope"])

    async def find(self, user_id: str, id_: str) -> StoredTurn | None:
        """A user's turn by internal id, or else by the client's id (the latest)."""
        row = await self._database.fetch_one(self._sql["find_turn"], *self._scope, user_id, id_)
        return None if row is None else stored_turn(row)

    async def current(self, user_id: str, conversation_id: str) -> StoredTurn | None:
        """The running turn of a user's conversation, else the queued one that is next; None when it is idle."""
        row = await self._database.fetch_one(self._sql["current_turn"], *self._scope, conversation_id, user_id)
        return None if row is None else stored_turn(row)

    async def waiting_by_type(self) -> list[dict[str, Any]]:
        """Turns that have not ended by ``user_type`` and ``state``: how many, and how old the oldest is (s)."""
        rows = await self._database.fetch(self._sql["waiting_by_type"], *self._scope)
        return [
            {
                "user_type": row["user_type"],
                "state": row["state"],
                "turns": row["turns"],
                "oldest_s": row["oldest_ms"] / 1000,
            }
            for row in rows
        ]

    async def unfinished(self, after_order: int = -1, limit: int = 1000) -> list[Unfinished]:
        """Queued, running and steering turns after an admitted order, in that order: the pages of a rebuild. A page
        exceeds ``limit`` rather than part turns of one order; the last page is empty.
        """
        rows = await self._database.fetch(self._sql["unfinished_turns"], *self._scope, after_order, limit)
        return [unfinished(row) for row in rows]

    async def queued_longer_than(self, age_ms: int, limit: int = 1000) -> list[Unfinished]:
        """Turns that have been ready to start for ``age_ms`` by PostgreSQL's clock, oldest first (rule 16)."""
        rows = await self._database.fetch(self._sql["queued_turns"], *self._scope, age_ms, limit)
        return [unfinished(row) for row in rows]

    async def states(self, turn_ids: Sequence[str]) -> dict[str, TurnState]:
        """Without those that have no row."""
        rows = await self._database.fetch(self._sql["turn_states"], *self._scope, list(turn_ids))
        return {row["turn_id"]: TurnState(row["state"]) for row in rows}

    async def max_order(self) -> int:
        """The highest admitted order, 0 when there is none: a rebuilt Valkey counts on from it."""
        row = await self._database.fetch_one(self._sql["max_order"], *self._scope)
        return row["highest"] if row else 0

    async def history(self, turn_id: str | None, limit_turns: int = 50) -> list[HistoryTurn]:
        """The path from the root to ``turn_id`` inclusive, oldest first, its last ``limit_turns``.

        Pass the *parent* of the turn that is to run; None, the parent of a root, has no history.
        """
        if turn_id is None:
            return []
        rows = await self._database.fetch(self._sql["turn_history"], *self._scope, turn_id, limit_turns)
        return [history_turn(row) for row in rows]

    async def feedback(self, turn_id: str, user_id: str, reaction: str | None, text: str | None) -> bool:
        """Sets a user's verdict on a turn; None clears. False for an unknown turn or another user's."""
        note = None if text is None else storable(text)
        row = await self._database.fetch_one(self._sql["set_feedback"], *self._scope, turn_id, user_id, reaction, note)
        return row is not None


async def cancel_turns(
    fetch: Fetch, scope: tuple[str, str], user_id: str, turn_ids: Sequence[str], ended_ms: int
) -> list[CancelResult]:
    """Cancels turns of a user within a transaction; leaves out those that do not exist."""
    sql = load_queries("turns")
    rows = await fetch(
        sql["cancel_turns"], *scope, *columns([(turn_id, user_id, None) for turn_id in turn_ids], 3), ended_ms
    )
    steers: dict[str, list[str]] = {}
    for row in await fetch(sql["settle_steers"], *scope, None, list(turn_ids), 0):
        steers.setdefault(row["steer_of"], []).append(row["turn_id"])
    return [
        CancelResult(
            turn_id=row["turn_id"],
            found=True,
            state_before=TurnState(row["state_before"]),
            state_after=TurnState(row["state_after"]),
            steers_discarded=tuple(steers.get(row["turn_id"], ())),
        )
        for row in rows
    ]


async def cancel_unfinished(
    fetch: Fetch, scope: tuple[str, str], user_id: str, conversation_id: str, ended_ms: int
) -> list[CancelResult]:
    """Cancels all of a conversation within a transaction, in the order of admission."""
    rows = await fetch(load_queries("turns")["unfinished_of_conversation"], *scope, conversation_id, user_id)
    order = {row["turn_id"]: position for position, row in enumerate(rows)}
    if not order:
        return []
    results = await cancel_turns(fetch, scope, user_id, list(order), ended_ms)
    return sorted(results, key=lambda result: order[result.turn_id])
