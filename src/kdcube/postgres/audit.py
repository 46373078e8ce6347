"""The audit log: what administrators and the system did, and who signed in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.queries import load_queries
from kdcube.postgres.rows import from_json, storable, to_json
from kdcube.protocol.errors import InvalidInput

MAX_PAGE = 200

Outcome: TypeAlias = Literal["done", "refused", "failed"]

_CURSOR = re.compile(r"a1\.(\d{1,18})")
_BEGINNING = 2**62


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


@dataclass(frozen=True, slots=True)
class EntryPage:
    """``next`` is the cursor of the following page, None at the end."""

    items: Sequence[Entry]
    next: str | None


class Audit:
    """The audit log of one tenant and project. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, tenant: str, project: str) -> None:
        self._database = database
        self._scope = (tenant, project)
        self._sql = load_queries("audit")

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
    ) -> EntryPage:
        """A page, newest first, of 1 to MAX_PAGE entries. Raises InvalidInput for ``cursor`` or ``limit``."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput("limit", f"limit must be 1 to {MAX_PAGE}")
        before = _parse_cursor(cursor) if cursor else _BEGINNING
        asked = [None if text is None else storable(text) for text in (actor, act)]
        rows = await self._database.fetch(self._sql["list_entries"], *self._scope, before, *asked, limit + 1)
        items = [_entry(row) for row in rows[:limit]]
        return EntryPage(items, f"a1.{items[-1].entry}" if len(rows) > limit else None)


def _parse_cursor(cursor: str) -> int:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidInput("cursor", "cursor must be one that a page gave as next")
    return int(match[1])


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
