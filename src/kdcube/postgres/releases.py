"""The releases of bundles: what is served, what is to be prepared, and the history. None changes once it is settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, Fetch, Row
from kdcube.postgres.pages import Page, Pages
from kdcube.postgres.queries import load_queries
from kdcube.postgres.release_records import (
    LOOKING,
    Crowded,
    Given,
    Origin,
    Plan,
    Release,
    Repeated,
    Standing,
    State,
    StoredRegistry,
    Superseded,
)
from kdcube.postgres.rows import from_json, storable, to_json

MAX_PAGE = 100
MAX_WANTED = 10
"""Of one bundle: more that look for the same news tell nothing new."""
PROBLEM_MAX_CHARS = 8_000

Wanted: TypeAlias = Release | Superseded | Repeated | Crowded


class Releases:
    """The registry of one tenant and project. Every method raises StoreUnavailable.

    Every change raises the sequence of the registry, in the same transaction; changes follow each other.
    """

    def __init__(self, database: Database, audit: Audit, tenant: str, project: str) -> None:
        self._database = database
        self._audit = audit
        self._scope = (tenant, project)
        self._sql = load_queries("releases")
        self._pages = Pages("r1", MAX_PAGE, _release, lambda release: release.number)

    # ---- reading

    async def sequence(self) -> int:
        """Whether anything is new, cheaply; 0 when nothing was ever registered."""
        row = await self._database.fetch_one(self._sql["registry"], *self._scope)
        return 0 if row is None else row["sequence"]

    async def served(self) -> StoredRegistry:
        """What is to be served, as of one moment."""
        return _registry(await self._database.fetch(self._sql["registered"], *self._scope))

    async def wanted(self) -> Sequence[Release]:
        """What is to be prepared, in the order in which it was asked for."""
        rows = await self._database.fetch(self._sql["wanted"], *self._scope)
        return [_release(row) for row in rows]

    async def standing(self, bundle_id: str) -> Standing | None:
        """None for a bundle that was never registered."""
        rows = await self._database.fetch(self._sql["standing"], *self._scope, bundle_id)
        return _standing(rows)

    async def get(self, bundle_id: str, number: int) -> Release | None:
        row = await self._database.fetch_one(self._sql["one_release"], *self._scope, bundle_id, number)
        return None if row is None else _release(row)

    async def history(self, bundle_id: str, *, cursor: str | None = None, limit: int = 20) -> Page[Release]:
        """A page, newest first, of 1 to MAX_PAGE releases. Raises InvalidInput for ``cursor`` or ``limit``."""
        below = self._pages.below(cursor, limit)
        rows = await self._database.fetch(self._sql["list_releases"], *self._scope, bundle_id, below, limit + 1)
        return self._pages.page(rows, limit)

    async def ready_before(self, bundle_id: str, number: int, limit: int = MAX_PAGE) -> Sequence[Release]:
        """What was served before the release ``number``, newest first; removals are left out."""
        rows = await self._database.fetch(self._sql["ready_before"], *self._scope, bundle_id, number, limit)
        return [_release(row) for row in rows]

    # ---- wanting

    async def want(
        self,
        bundle_id: str,
        *,
        entry: Mapping[str, Any] | None,
        revision: str | None = None,
        origin: Origin,
        actor: Actor,
        reason: str | None = None,
        after: int | None = None,
        cause: str | None = None,
        default: str | Literal[False] | None = False,
        details: Mapping[str, Any] | None = None,
    ) -> Wanted:
        """One more release, with an audit entry, or neither. It is to be prepared; a removal is ready at once.

        ``revision`` fixes the commit; without it the entry's ref is resolved when it is prepared. ``after`` is the
        number of the last release that the change builds upon (0: there is none), or anything with None. ``cause``
        counts once. With ``default`` the bundle that gets messages that name none changes in the same transaction.
        """

        async def work(fetch: Fetch) -> Wanted:
            await self._lock(fetch)
            standing = _standing(await fetch(self._sql["standing"], *self._scope, bundle_id))
            last = standing and standing.last
            if after is not None and after != (last.number if last else 0):
                return Superseded(last)
            if cause is not None and (rows := await fetch(self._sql["of_cause"], *self._scope, bundle_id, cause)):
                return Repeated(_release(rows[0]))
            waiting: int = (await fetch(self._sql["count_wanted"], *self._scope, bundle_id))[0]["wanted"]
            if entry is not None and waiting >= MAX_WANTED:
                return Crowded(waiting)
            given = Given(bundle_id, entry, ready=entry is None)
            release = await self._add(
                fetch, given, last.number + 1 if last else 1, actor, origin, reason=reason, revision=revision,
                cause=cause, details=details,
            )  # fmt: skip
            if default is not False:
                await fetch(self._sql["set_default"], *self._scope, default, "administrator")
            await fetch(self._sql["raise_sequence"], *self._scope)
            return release

        return await self._database.transact(work)

    async def adopt(
        self, planned: Callable[[StoredRegistry], Plan], actor: Actor, reason: str | None
    ) -> StoredRegistry:
        """Brings the registry to what the environment says, by a plan of what is registered. Gives what is then.

        Of several processes that start at once one does it. ``planned`` must have no effects: it may be called again.
        """

        async def work(fetch: Fetch) -> StoredRegistry:
            await self._lock(fetch)
            found = _registry(await fetch(self._sql["registered"], *self._scope))
            plan = planned(found)
            if not plan.releases and plan.default is False and found.sequence > 0:
                return found
            for given in plan.releases:
                last = found.last.get(given.bundle_id)
                number = last.number + 1 if last else 1
                await self._add(fetch, given, number, actor, "environment", reason=reason)
            if plan.default is not False:
                await fetch(self._sql["set_default"], *self._scope, plan.default, "environment")
            await fetch(self._sql["raise_sequence"], *self._scope)
            return _registry(await fetch(self._sql["registered"], *self._scope))

        return await self._database.transact(work)

    async def set_default(self, bundle_id: str | None, actor: Actor, after: int | None = None) -> StoredRegistry | None:
        """Which bundle gets messages that name none. ``after`` is the sequence that was seen; None when there is a
        later one, or the bundle is not served: then nothing changes.
        """

        async def work(fetch: Fetch) -> StoredRegistry | None:
            await self._lock(fetch)
            found = _registry(await fetch(self._sql["registered"], *self._scope))
            if after is not None and after != found.sequence:
                return None
            if bundle_id is not None and bundle_id not in found.releases:
                return None
            await fetch(self._sql["set_default"], *self._scope, bundle_id, "administrator")
            await fetch(self._sql["raise_sequence"], *self._scope)
            told = {"before": found.default_bundle_id, "after": bundle_id}
            await self._audit.record(actor, "bundle.default", bundle_id or "", told, within=fetch)
            return _registry(await fetch(self._sql["registered"], *self._scope))

        return await self._database.transact(work)

    # ---- settling

    async def settle_ready(self, release: Release, revision: str | None) -> bool:
        """From then on it is served, unless a later release is. False when it was settled before: nothing changes.

        A bundle that is the only one becomes the default.
        """

        async def work(fetch: Fetch) -> bool:
            await self._lock(fetch)
            of = (release.bundle_id, release.number)
            if not await fetch(self._sql["settle"], *self._scope, *of, "ready", revision, None):
                return False
            await fetch(self._sql["serve"], *self._scope, *of)
            await fetch(self._sql["raise_sequence"], *self._scope)
            found = _registry(await fetch(self._sql["registered"], *self._scope))
            if found.default_bundle_id is None and list(found.releases) == [release.bundle_id]:
                await fetch(self._sql["set_default"], *self._scope, release.bundle_id, "environment")
            return True

        return await self._database.transact(work)

    async def settle_failed(self, release: Release, problem: str) -> bool:
        """What was served goes on. ``problem`` is for people. False when it was settled before: nothing changes."""
        told = storable(problem[:PROBLEM_MAX_CHARS])

        async def work(fetch: Fetch) -> bool:
            await self._lock(fetch)
            of = (release.bundle_id, release.number)
            if not await fetch(self._sql["settle"], *self._scope, *of, "failed", None, told):
                return False
            await fetch(self._sql["raise_sequence"], *self._scope)
            return True

        return await self._database.transact(work)

    # ----

    async def _lock(self, fetch: Fetch) -> None:
        await fetch(self._sql["open_registry"], *self._scope)
        await fetch(self._sql["lock_registry"], *self._scope)

    async def _add(
        self,
        fetch: Fetch,
        given: Given,
        number: int,
        actor: Actor,
        origin: Origin,
        *,
        reason: str | None,
        revision: str | None = None,
        cause: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Release:
        bundle_id, said = given.bundle_id, None if reason is None else storable(reason)
        state: State = "ready" if given.ready else "wanted"
        document = None if given.entry is None else to_json(given.entry)
        author = storable(actor.id)
        values = (bundle_id, number, document, revision, state, origin, author, said, cause)
        release = _release((await fetch(self._sql["add_release"], *self._scope, *values))[0])
        decided = None if origin in LOOKING else number
        await fetch(self._sql["move_head"], *self._scope, bundle_id, number, decided, number if given.ready else None)
        told = {"number": number, "reason": said, "revision": revision, **(details or {})}
        await self._audit.record(actor, f"bundle.{origin}", release.name, told, within=fetch)
        return release


def _registry(rows: Sequence[Row]) -> StoredRegistry:
    if not rows:
        return StoredRegistry()
    releases: dict[str, Release] = {}
    last: dict[str, Release] = {}
    decided: dict[str, Release] = {}
    for row in rows:
        if row["bundle_id"] is None:  # the registry has no bundle
            continue
        release = _release(row)
        last[release.bundle_id] = release  # rows are in the order of numbers
        if release.number == row["decided"]:
            decided[release.bundle_id] = release
        if release.number == row["ready"] and release.entry is not None:
            releases[release.bundle_id] = release
    first = rows[0]
    return StoredRegistry(first["sequence"], first["default_bundle_id"], first["default_by"], releases, last, decided)


def _standing(rows: Sequence[Row]) -> Standing | None:
    if not rows:
        return None
    found = {row["number"]: _release(row) for row in rows}
    last, ready = found[max(found)], found.get(rows[0]["ready"])
    sound = [release for release in found.values() if release.state != "failed"]
    return Standing(last, ready if ready and ready.entry is not None else None, sound[-1] if sound else last)


def _release(row: Row) -> Release:
    return Release(
        bundle_id=row["bundle_id"],
        number=row["number"],
        entry=from_json(row["entry"]),
        revision=row["revision"],
        state=row["state"],
        origin=row["origin"],
        author=row["author"],
        reason=row["reason"],
        problem=row["problem"],
        created_ms=row["created_ms"],
        settled_ms=row["settled_ms"],
    )
