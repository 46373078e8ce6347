"""The audit log: what administrators and the system did, and who signed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.pages import Page, Pages
from kdcube.postgres.queries import load_queries
from kdcube.postgres.rows import from_json, storable, to_json

MAX_PAGE = 200

Outcome: TypeAlias = Literal["done", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a user's id, or a part of the system as ``system:<instance>``, and by which request."""

    id: str
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. ``details`` holds no secret: whoever records it sees to that."""

    entry: int
    at_ms: int
    actor: str
    act: str
    subject: str
    outcome: str
    address: str | None
    request_id: str | None
    details: Mapping[str, Any]


class Audit:
    """The audit log of one tenant and project. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, tenant: str, project: str) -> None:
        self._database = database
        self._scope = (tenant, project)
        self._sql = load_queries("audit")
        self._pages = Pages("a1", MAX_PAGE, _entry, lambda entry: entry.entry)

    async def record(
        self,
        actor: Actor,
        act: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
        *,
        outcome: Outcome = "done",
        within: Fetch | None = None,
    ) -> None:
        """Writes one entry: ``act`` as ``gateway_config.put`` or ``session.opened``, ``subject`` what it was about.

        ``within`` is the transaction of the act itself: then there is neither without the other. Else the act must not
        be answered before this returns. Never a secret in ``details``.
        """
        fetch = within or self._database.fetch
        await fetch(
            self._sql["record"],
            *self._scope,
            storable(actor.id),
            act,
            storable(subject),
            outcome,
            actor.address,
            actor.request_id,
            to_json(details or {}),
        )

    async def list(
        self, *, cursor: str | None = None, limit: int = 50, actor: str | None = None, act: str | None = None
    ) -> Page[Entry]:
        """A page, newest first, of 1 to MAX_PAGE entries. Raises InvalidInput for ``cursor`` or ``limit``."""
        before = self._pages.below(cursor, limit)
        asked = [None if text is None else storable(text) for text in (actor, act)]
        rows = await self._database.fetch(self._sql["list_entries"], *self._scope, before, *asked, limit + 1)
        return self._pages.page(rows, limit)


def _entry(row: Row) -> Entry:
    return Entry(
        entry=row["entry"],
        at_ms=row["at_ms"],
        actor=row["actor"],
        act=row["act"],
        subject=row["subject"],
        outcome=row["outcome"],
        address=row["address"],
        request_id=row["request_id"],
        details=from_json(row["details"]),
    )
