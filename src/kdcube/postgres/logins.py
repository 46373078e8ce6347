"""Logins: who is signed in through proxylogin. Tokens and claims are sealed by whoever hands them in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.queries import load_queries

EndedBy: TypeAlias = Literal["signed_out", "provider", "refused", "replaced"]
"""By the user; by the provider's back channel; the provider refused to refresh it; the user signed in anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLogin:
    """A login that begins. Times are Unix milliseconds; what may be None is so without a refresh token."""

    cookie_hash: bytes
    login_id: str
    user_id: str
    issuer: str
    provider_session: str | None
    claims: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    sealed_by: str
    opened_ms: int
    idle_ms: int
    expires_ms: int
    confirmed_ms: int | None
    refresh_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLogin:
    login_id: str
    user_id: str
    claims: bytes = field(repr=False)
    sealed_by: str
    opened_ms: int
    used_ms: int
    idle_ms: int
    expires_ms: int
    confirmed_ms: int | None
    ended_ms: int | None
    ended_by: EndedBy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueLogin:
    """A login whose refresh is the caller's until it stores or postpones it, or until its time for that is over."""

    cookie_hash: bytes
    login_id: str
    user_id: str
    claims: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    generation: int
    refresh_failures: int


@dataclass(frozen=True, slots=True)
class EndedLogin:
    """``tokens``: sealed, and nowhere else any more."""

    cookie_hash: bytes
    login_id: str
    user_id: str
    tokens: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a login holds sealed, of one generation."""

    cookie_hash: bytes
    generation: int
    claims: bytes = field(repr=False)
    tokens: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spending:
    """Something that counts once, such as the state of a sign-in; until ``until_ms`` it is remembered."""

    kind: str
    hash: bytes
    until_ms: int


class Logins:
    """The logins of one tenant and project. What opens or ends one is in the audit log, in the same transaction.

    Every method raises StoreUnavailable.
    """

    def __init__(self, database: Database, audit: Audit, tenant: str, project: str) -> None:
        self._database = database
        self._audit = audit
        self._scope = (tenant, project)
        self._sql = load_queries("logins")

    async def open(self, login: NewLogin, actor: Actor, *, replaced: bytes | None = None) -> EndedLogin | None:
        """Begins ``login``. The one of the cookie ``replaced`` ends with it and is returned."""

        async def work(fetch: Fetch) -> EndedLogin | None:
            await fetch(
                self._sql["open_login"], *self._scope, login.cookie_hash, login.login_id, login.user_id, login.issuer,
                login.provider_session, login.claims, login.tokens, login.sealed_by, login.opened_ms, login.idle_ms,
                login.expires_ms, login.confirmed_ms, login.refresh_ms,
            )  # fmt: skip
            await self._audit.record(actor, "login.opened", login.login_id, {"user": login.user_id}, within=fetch)
            if replaced is None:
                return None
            return await self._end(fetch, replaced, login.opened_ms, "replaced", actor)

        return await self._database.transact(work)

    async def get(self, cookie_hash: bytes) -> StoredLogin | None:
        """Of this cookie, even if it has ended."""
        row = await self._database.fetch_one(self._sql["get_login"], *self._scope, cookie_hash)
        return None if row is None else _stored(row)

    async def touch(self, cookie_hash: bytes, now_ms: int) -> StoredLogin | None:
        """Notes the use of one that is alive at ``now_ms``; None for any other."""
        row = await self._database.fetch_one(self._sql["touch_login"], *self._scope, cookie_hash, now_ms)
        return None if row is None else _stored(row)

    async def alive(self, cookie_hashes: Collection[bytes], now_ms: int) -> set[bytes]:
        """Those of them that have not ended or run out; looking is no use of them."""
        rows = await self._database.fetch(self._sql["live_logins"], *self._scope, list(cookie_hashes), now_ms)
        return {row["cookie_hash"] for row in rows}

    async def end(self, cookie_hash: bytes, now_ms: int, ended_by: EndedBy, actor: Actor) -> EndedLogin | None:
        """None when there is none that has not ended."""
        return await self._database.transact(lambda fetch: self._end(fetch, cookie_hash, now_ms, ended_by, actor))

    async def end_refused(self, due: DueLogin, now_ms: int, actor: Actor) -> EndedLogin | None:
        """The provider refuses the tokens of ``due``. None when they are not the last ones, or it has ended."""
        return await self._database.transact(
            lambda fetch: self._end(fetch, due.cookie_hash, now_ms, "refused", actor, due.generation)
        )

    async def end_by_provider(
        self, issuer: str, session: str | None, user_id: str | None, now_ms: int, spending: Spending, actor: Actor
    ) -> Sequence[EndedLogin] | None:
        """Ends those of the provider's session, or all of a user. None, and nothing ends, when it was spent before."""

        async def work(fetch: Fetch) -> Sequence[EndedLogin] | None:
            if not await self._spend(fetch, spending):
                return None
            rows = await fetch(self._sql["end_logins"], *self._scope, issuer, now_ms, "provider", session, user_id)
            ended = [EndedLogin(**row) for row in rows]
            for login in ended:
                await self._audit.record(
                    actor, "login.ended", login.login_id, {"user": login.user_id, "by": "provider"}, within=fetch
                )
            return ended

        return await self._database.transact(work)

    async def spend(self, spending: Spending) -> bool:
        """False when it was spent before."""
        return await self._spend(self._database.fetch, spending)

    async def take_due(self, refresher: str, now_ms: int, *, at_most: int, within_s: float) -> Sequence[DueLogin]:
        """Logins whose refresh is due at ``now_ms``: nobody else is given them for ``within_s``."""
        rows = await self._database.fetch(self._sql["take_due"], *self._scope, refresher, now_ms, at_most, within_s)
        return [DueLogin(**row) for row in rows]

    async def next_due(self, now_ms: int) -> int | None:
        """When the next refresh is due; None when none is."""
        row = await self._database.fetch_one(self._sql["next_due"], *self._scope, now_ms)
        return None if row is None else row["at_ms"]

    async def store_refreshed(
        self,
        due: DueLogin,
        *,
        claims: bytes,
        tokens: bytes,
        sealed_by: str,
        confirmed_ms: int | None,
        refresh_ms: int | None,
    ) -> bool:
        """What the tokens of ``due`` gave. False when the login has ended, or somebody stored newer ones."""
        row = await self._database.fetch_one(
            self._sql["store_refreshed"], *self._scope, due.cookie_hash, due.generation, claims, tokens, sealed_by,
            confirmed_ms, refresh_ms,
        )  # fmt: skip
        return row is not None

    async def postpone_refresh(self, due: DueLogin, refresher: str, refresh_ms: int) -> None:
        """It is due again at ``refresh_ms``; one that is somebody else's by now stays as it is."""
        await self._database.fetch(
            self._sql["postpone_refresh"], *self._scope, due.cookie_hash, due.generation, refresher, refresh_ms
        )

    async def sealed_by_others(self, key: str, at_most: int) -> Sequence[Sealed]:
        """What another key has sealed."""
        rows = await self._database.fetch(self._sql["sealed_by_others"], *self._scope, key, at_most)
        return [Sealed(**row) for row in rows]

    async def store_resealed(self, sealed: Sealed, key: str) -> bool:
        """The same content under ``key``. False when it has changed in between."""
        row = await self._database.fetch_one(
            self._sql["store_resealed"],
            *self._scope,
            sealed.cookie_hash,
            sealed.generation,
            sealed.claims,
            sealed.tokens,
            key,
        )
        return row is not None

    async def forget(self, logins_before_ms: int, spent_before_ms: int) -> None:
        """Removes what was over then."""
        await self._database.fetch(self._sql["forget_logins"], *self._scope, logins_before_ms)
        await self._database.fetch(self._sql["forget_spent"], *self._scope, spent_before_ms)

    async def _end(
        self,
        fetch: Fetch,
        cookie_hash: bytes,
        now_ms: int,
        ended_by: EndedBy,
        actor: Actor,
        generation: int | None = None,
    ) -> EndedLogin | None:
        rows = await fetch(self._sql["end_login"], *self._scope, cookie_hash, now_ms, ended_by, generation)
        if not rows:
            return None
        ended = EndedLogin(**rows[0])
        details = {"user": ended.user_id, "by": ended_by}
        await self._audit.record(actor, "login.ended", ended.login_id, details, within=fetch)
        return ended

    async def _spend(self, fetch: Fetch, spending: Spending) -> bool:
        rows = await fetch(self._sql["spend"], *self._scope, spending.kind, spending.hash, spending.until_ms)
        return bool(rows)


def _stored(row: Row) -> StoredLogin:
    return StoredLogin(**row)
