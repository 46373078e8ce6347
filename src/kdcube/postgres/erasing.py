"""Erasing what is kept of a user, and conversations that have become old.

In two steps. ``request`` (or ``mark_aged``) commits at once that conversations are hidden, that nothing is admitted to
them any more, that what is unfinished in them is cancelled, and that they are to be erased. Maintenance then erases one
after the other, as soon as nothing of them is under way: whatever dies meanwhile, the marks tell what is left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import CancelResult
from kdcube.postgres.turns import cancel_turns
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnState

_MAINTENANCE: Final = Actor("system:maintenance")
_COUNTS: Final = ("conversations", "turns", "feedback", "api_keys", "logins")
RETENTION: Final = "retention"
"""The erasure of a conversation that has become old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """A receipt: what was erased of whom, without what it said. ``done_ms`` None: it is under way."""

    erasure_id: str
    user_id: str
    requested_ms: int
    done_ms: int | None
    conversations: int
    turns: int
    feedback: int
    api_keys: int
    logins: int


@dataclass(frozen=True, slots=True)
class Requested:
    """What is committed, and has to be told: turns that were cancelled, keys and logins (by their cookies' hashes) that
    are no more."""

    erasure: Erasure
    cancelled: list[CancelResult]
    api_keys: list[str]
    logins: list[bytes]


@dataclass(frozen=True, slots=True)
class Marked:
    """A conversation that is to be erased. ``lingers``: code of it may still run."""

    conversation_id: str
    user_id: str
    erasure_id: str
    lingers: bool


class Erasing:
    """The erasures of one tenant and project. Every method raises StoreUnavailable; repeating it is safe."""

    def __init__(self, database: Database, tenant: str, project: str) -> None:
        self._database = database
        self._scope = (tenant, project)
        self._sql = load_queries("erasing")
        self._audit = Audit(database, tenant, project)

    async def request(self, user_id: str, actor: Actor, ended_ms: int) -> Requested:
        """Marks all conversations that a user has now, and erases keys and logins, in one transaction; while an erasure
        is pending, what is new joins it. What the user sends from then on is not part of it.
        """
        erasure_id = new_id()

        async def work(fetch: Fetch) -> Requested:
            await fetch(self._sql["open_erasure"], *self._scope, erasure_id, user_id, actor.id)
            erasure = _erasure((await fetch(self._sql["pending_erasure"], *self._scope, user_id))[0])
            rows = await fetch(self._sql["lock_owned"], *self._scope, user_id)
            conversations = [row["conversation_id"] for row in rows]
            await fetch(self._sql["mark_owned"], *self._scope, erasure.erasure_id, conversations)
            rows = await fetch(self._sql["unfinished_in"], *self._scope, conversations)
            unfinished = [row["turn_id"] for row in rows]
            cancelled = await cancel_turns(fetch, self._scope, user_id, unfinished, ended_ms) if unfinished else []
            keys = [row["key_id"] for row in await fetch(self._sql["erase_keys"], *self._scope, user_id)]
            logins = [row["cookie_hash"] for row in await fetch(self._sql["erase_logins"], *self._scope, user_id)]
            counts = (erasure.erasure_id, len(keys), len(logins))
            erasure = _erasure((await fetch(self._sql["count_credentials"], *self._scope, *counts))[0])
            details = {"erasure_id": erasure.erasure_id, "conversations": len(conversations)}
            await self._audit.record(actor, "user.erasure_requested", user_id, details, within=fetch)
            return Requested(erasure, cancelled, keys, logins)

        return await self._database.transact(work)

    async def get(self, erasure_id: str, user_id: str | None = None) -> Erasure | None:
        """By id; with ``user_id`` only that user's."""
        row = await self._database.fetch_one(self._sql["get_erasure"], *self._scope, erasure_id, user_id)
        return None if row is None else _erasure(row)

    async def mark_aged(self, before_ms: int, limit: int) -> int:
        """Marks at most ``limit`` conversations whose last activity is older, if nothing in them is unfinished."""
        return len(await self._database.fetch(self._sql["mark_aged"], *self._scope, before_ms, limit))

    async def marked(self, after: str, limit: int) -> list[Marked]:
        """A page of conversations to be erased, by id."""
        return [
            Marked(*row.values()) for row in await self._database.fetch(self._sql["marked"], *self._scope, after, limit)
        ]

    async def turns(self, conversation_id: str) -> dict[str, TurnState]:
        """All turns of a conversation."""
        rows = await self._database.fetch(self._sql["turns_in"], *self._scope, conversation_id)
        return {row["turn_id"]: TurnState(row["state"]) for row in rows}

    async def erase(self, conversation_id: str, until_ms: int) -> bool:
        """Erases a marked conversation in which nothing is under way; False when there is none.

        From then on no turn is written into it that was accepted until ``until_ms`` by Valkey's clock, whoever tries.
        """

        async def work(fetch: Fetch) -> bool:
            found = await fetch(self._sql["lock_marked"], *self._scope, conversation_id)
            if not found:
                return False
            await fetch(self._sql["keep_out"], *self._scope, conversation_id, until_ms)
            erased = (await fetch(self._sql["erase_turns"], *self._scope, conversation_id))[0]
            await fetch(self._sql["erase_conversation"], *self._scope, conversation_id)
            counts = (1, erased["turns"], erased["feedback"])
            await fetch(self._sql["count_erased"], *self._scope, found[0]["erasure_id"], *counts)
            return True

        return await self._database.transact(work)

    async def emptied(self) -> Sequence[Erasure]:
        """Pending erasures of which nothing is left in PostgreSQL."""
        return [_erasure(row) for row in await self._database.fetch(self._sql["emptied"], *self._scope)]

    async def close(self, erasure_id: str) -> None:
        """Nothing of it is left anywhere: that stands in the audit log, with what was erased."""

        async def work(fetch: Fetch) -> None:
            for row in await fetch(self._sql["close_erasure"], *self._scope, erasure_id):
                counts = {"erasure_id": erasure_id, **{name: row[name] for name in _COUNTS}}
                await self._audit.record(_MAINTENANCE, "user.erased", row["user_id"], counts, within=fetch)

        await self._database.transact(work)

    async def forget_before(self, before_ms: int) -> None:
        """Forgets which conversations were erased before."""
        await self._database.fetch(self._sql["forget_erased"], *self._scope, before_ms)


def _erasure(row: Row) -> Erasure:
    return Erasure(**dict(row))
