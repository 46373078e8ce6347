"""The versions of the gateway configuration. The last one is to be run by all; none is ever changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.pages import Page, Pages
from kdcube.postgres.queries import load_queries
from kdcube.postgres.rows import from_json, storable, to_json

MAX_PAGE = 100

Origin: TypeAlias = Literal["put", "patch", "reset", "rollback", "environment"]
"""How a version came about; ``environment``: a service that was started with the order to use its environment's."""


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """One version. ``document`` is as it was given, ``checksum`` that of what it resolved to then."""

    version: int
    document: Mapping[str, Any]
    checksum: str
    author: str
    origin: str
    reason: str | None
    created_ms: int


@dataclass(frozen=True, slots=True)
class Beneath:
    """What was run before the first version: the environment's document."""

    document: Mapping[str, Any]
    checksum: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """Nothing was stored: there is a later version than the one that was built upon."""


class GatewayConfigs:
    """The versions of one tenant and project. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, audit: Audit, tenant: str, project: str) -> None:
        self._database = database
        self._audit = audit
        self._scope = (tenant, project)
        self._sql = load_queries("gateway_configs")
        self._pages = Pages("v1", MAX_PAGE, _config, lambda config: config.version)

    async def last(self) -> StoredConfig | None:
        """The version that is to be run; None when none was ever stored."""
        row = await self._database.fetch_one(self._sql["last_config"], *self._scope)
        return None if row is None else _config(row)

    async def get(self, version: int) -> StoredConfig | None:
        row = await self._database.fetch_one(self._sql["one_config"], *self._scope, version)
        return None if row is None else _config(row)

    async def add(
        self,
        *,
        after: int,
        beneath: Beneath | None = None,
        document: Mapping[str, Any],
        checksum: str,
        actor: Actor,
        origin: Origin,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> StoredConfig | Superseded:
        """Stores the version that follows ``after`` (0: the first) and its audit entry with ``details``, or neither.

        ``beneath`` is stored before it, for the first one.
        """

        async def work(fetch: Fetch) -> StoredConfig | Superseded:
            said, version = None if reason is None else storable(reason), after + 1
            if beneath is not None:
                given = (to_json(beneath.document), beneath.checksum, "system:environment", "environment", None)
                if not await fetch(self._sql["add_config"], *self._scope, version, *given):
                    return Superseded()
                version += 1
            given = (to_json(document), checksum, storable(actor.id), origin, said)
            rows = await fetch(self._sql["add_config"], *self._scope, version, *given)
            if not rows:
                return Superseded()
            told = {"version": version, "checksum": checksum, "reason": said, **(details or {})}
            await self._audit.record(actor, f"gateway_config.{origin}", f"version {version}", told, within=fetch)
            return _config(rows[0])

        return await self._database.transact(work)

    async def list(self, *, cursor: str | None = None, limit: int = 20) -> Page[StoredConfig]:
        """A page, newest first, of 1 to MAX_PAGE versions. Raises InvalidInput for ``cursor`` or ``limit``."""
        before = self._pages.below(cursor, limit)
        rows = await self._database.fetch(self._sql["list_configs"], *self._scope, before, limit + 1)
        return self._pages.page(rows, limit)


def _config(row: Row) -> StoredConfig:
    return StoredConfig(
        version=row["version"],
        document=from_json(row["document"]),
        checksum=row["checksum"],
        author=row["author"],
        origin=row["origin"],
        reason=row["reason"],
        created_ms=row["created_ms"],
    )
