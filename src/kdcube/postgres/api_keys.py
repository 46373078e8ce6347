"""API keys as they are stored: never the secret, only its hash."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.queries import load_queries
from kdcube.postgres.rows import storable
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import UserType

MAX_PAGE = 200
MAX_LIVE = 25
"""Of one user or service."""

_CURSOR = re.compile(r"k1\.(\d{1,15})\.([A-Za-z0-9]{1,32})")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key. It acts as ``user_id``, with what was that user's when it was made."""

    key_id: str
    secret_hash: bytes = field(repr=False)
    name: str
    user_id: str
    username: str | None
    email: str | None
    user_type: UserType
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    created_by: str
    created_ms: int
    expires_ms: int
    revoked_ms: int | None = None
    last_used_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """``next`` is the cursor of the following page, None at the end."""

    items: Sequence[StoredKey]
    next: str | None


@dataclass(frozen=True, slots=True)
class TooMany:
    """Nothing was stored: the user has MAX_LIVE keys that can be used."""


class StoredKeys:
    """The keys of one tenant and project. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, audit: Audit, tenant: str, project: str) -> None:
        self._database = database
        self._audit = audit
        self._scope = (tenant, project)
        self._sql = load_queries("api_keys")

    async def add(self, key: StoredKey, actor: Actor) -> TooMany | None:
        """Stores it with its audit entry, or neither."""

        async def work(fetch: Fetch) -> TooMany | None:
            await fetch(self._sql["lock_owner"], *self._scope, storable(key.user_id))
            rows = await fetch(self._sql["count_live"], *self._scope, storable(key.user_id), key.created_ms)
            if rows[0]["live"] >= MAX_LIVE:
                return TooMany()
            await fetch(
                self._sql["add_key"],
                *self._scope,
                key.key_id,
                key.secret_hash,
                storable(key.name),
                storable(key.user_id),
                key.username and storable(key.username),
                key.email and storable(key.email),
                key.user_type,
                [storable(role) for role in key.roles],
                list(key.scopes),
                storable(key.created_by),
                key.created_ms,
                key.expires_ms,
            )
            details = {
                "name": key.name,
                "acts_as": key.user_id,
                "user_type": key.user_type,
                "roles": key.roles,
                "scopes": key.scopes,
                "expires_ms": key.expires_ms,
            }
            await self._audit.record(actor, "api_key.created", key.key_id, details, within=fetch)
            return None

        return await self._database.transact(work)

    async def find(self, key_id: str) -> StoredKey | None:
        """Also one that is revoked or has expired."""
        row = await self._database.fetch_one(self._sql["find_key"], *self._scope, key_id)
        return None if row is None else _key(row)

    async def list(self, user_id: str | None = None, *, cursor: str | None = None, limit: int = 50) -> KeyPage:
        """A page, newest first, of 1 to MAX_PAGE keys, of one user where given. Raises InvalidInput."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput("limit", f"limit must be 1 to {MAX_PAGE}")
        before = _parse_cursor(cursor) if cursor else (2**62, "")
        if user_id is None:
            rows = await self._database.fetch(self._sql["list_keys"], *self._scope, *before, limit + 1)
        else:
            owner = storable(user_id)
            rows = await self._database.fetch(self._sql["list_keys_of"], *self._scope, *before, limit + 1, owner)
        items = [_key(row) for row in rows[:limit]]
        return KeyPage(items, f"k1.{items[-1].created_ms}.{items[-1].key_id}" if len(rows) > limit else None)

    async def revoke(self, key_id: str, actor: Actor, now_ms: int, *, of_user: str | None = None) -> bool:
        """Ends it, with an audit entry the first time. False when there is no such key, or it is not ``of_user``."""

        async def work(fetch: Fetch) -> bool:
            owner = None if of_user is None else storable(of_user)
            by = storable(actor.id)
            rows = await fetch(self._sql["revoke_key"], *self._scope, key_id, now_ms, by, owner)
            if not rows:
                return bool(await fetch(self._sql["key_exists"], *self._scope, key_id, owner))
            details = {"name": rows[0]["name"], "acts_as": rows[0]["user_id"]}
            await self._audit.record(actor, "api_key.revoked", key_id, details, within=fetch)
            return True

        return await self._database.transact(work)

    async def revoke_all(self, user_id: str, actor: Actor, now_ms: int) -> Sequence[str]:
        """Ends all keys that act as the user, each with its audit entry; their ids. None is fine."""

        async def work(fetch: Fetch) -> Sequence[str]:
            owner = storable(user_id)
            await fetch(self._sql["lock_owner"], *self._scope, owner)  # none is being made meanwhile
            rows = await fetch(self._sql["revoke_keys_of"], *self._scope, owner, now_ms, storable(actor.id))
            for row in rows:
                details = {"name": row["name"], "acts_as": user_id}
                await self._audit.record(actor, "api_key.revoked", row["key_id"], details, within=fetch)
            return [row["key_id"] for row in rows]

        return await self._database.transact(work)

    async def alive(self, key_ids: Collection[str], now_ms: int) -> set[str]:
        """Those of them that are neither revoked nor expired."""
        rows = await self._database.fetch(self._sql["live_keys"], *self._scope, list(key_ids), now_ms)
        return {row["key_id"] for row in rows}

    async def note_used(self, used: Mapping[str, int]) -> None:
        """When keys were used last, in Unix milliseconds, by id."""
        await self._database.fetch(self._sql["note_used"], *self._scope, list(used), list(used.values()))


def _parse_cursor(cursor: str) -> tuple[int, str]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidInput("cursor", "cursor must be one that a page gave as next")
    return int(match[1]), match[2]


def _key(row: Row) -> StoredKey:
    return StoredKey(
        key_id=row["key_id"],
        secret_hash=row["secret_hash"],
        name=row["name"],
        user_id=row["user_id"],
        username=row["username"],
        email=row["email"],
        user_type=UserType(row["user_type"]),
        roles=tuple(row["roles"]),
        scopes=tuple(row["scopes"]),
        created_by=row["created_by"],
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
        revoked_ms=row["revoked_ms"],
        last_used_ms=row["last_used_ms"],
    )
