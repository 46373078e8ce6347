"""Releases that administrators and pushes ask for. They are only wanted here: proc prepares them."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.bundles.entries import changed_fields, document_of
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.following import Following
from kdcube.postgres.audit import Actor
from kdcube.postgres.release_records import Origin, Release, Standing, StoredRegistry, Superseded
from kdcube.postgres.releases import Releases, Wanted
from kdcube.protocol.errors import StoreUnavailable

_ATTEMPTS = 5
"""How often somebody else may come before a reload."""


class Wanting:
    """Asks for releases of one installation, and tells all processes. Methods raise StoreUnavailable."""

    def __init__(self, live: LiveBundles, releases: Releases, following: Following) -> None:
        self._live = live
        self._releases = releases
        self._following = following

    async def change(
        self,
        bundle_id: str,
        entry: BundleEntry | None,
        standing: Standing | None,
        *,
        origin: Origin,
        actor: Actor,
        reason: str | None,
        default: str | Literal[False] | None = False,
    ) -> Wanted:
        """A release with another entry than ``standing``, or without one, if that is still how the bundle stands."""
        document = None if entry is None else document_of(entry)
        fields = changed_fields(standing and standing.base.entry, document)
        wanted = await self._releases.want(
            bundle_id,
            entry=document,
            origin=origin,
            actor=actor,
            reason=reason,
            after=standing.last.number if standing else 0,
            default=default,
            details={"fields": fields},
        )
        return await self._told(wanted)

    async def roll_back(self, standing: Standing, target: Release, *, actor: Actor, reason: str | None) -> Wanted:
        """A release with the entry and the revision of ``target``, if that is still how the bundle stands."""
        wanted = await self._releases.want(
            target.bundle_id,
            entry=target.entry,
            revision=target.revision,
            origin="rollback",
            actor=actor,
            reason=reason,
            after=standing.last.number,
            details={"to": target.number},
        )
        return await self._told(wanted)

    async def target(self, standing: Standing) -> Release | None:
        """Where a rollback goes by itself: the last release before the one that is served that differs from it."""
        served = standing.served
        last = served or standing.last
        for release in await self._releases.ready_before(last.bundle_id, last.number + (served is None)):
            if served is None or (release.entry, release.revision) != (served.entry, served.revision):
                return release
        return None

    async def reload(
        self, bundle_id: str, *, origin: Origin, actor: Actor, reason: str | None = None, cause: str | None = None
    ) -> Wanted | None:
        """A release of the same entry, whose ref is resolved anew; None for a bundle that is not registered.

        ``cause``: what asks for it, where that counts once.
        """
        wanted: Wanted | None = None
        for _ in range(_ATTEMPTS):
            standing = await self._releases.standing(bundle_id)
            entry = standing and standing.base.entry
            if standing is None or entry is None:
                return None
            wanted = await self._releases.want(
                bundle_id,
                entry=entry,
                origin=origin,
                actor=actor,
                reason=reason,
                after=standing.last.number,
                cause=cause,
            )
            if not isinstance(wanted, Superseded):
                break
        return wanted and await self._told(wanted)

    async def make_default(self, bundle_id: str | None, actor: Actor, after: int | None) -> StoredRegistry | None:
        """Which bundle gets messages that name none; None when the registry changed since ``after``, or the bundle is
        not served.
        """
        registry = await self._releases.set_default(bundle_id, actor, after)
        if registry is not None:
            await self._tell()
        return registry

    async def _told(self, wanted: Wanted) -> Wanted:
        if isinstance(wanted, Release):
            await self._tell()
        return wanted

    async def _tell(self) -> None:
        with suppress(StoreUnavailable):  # it is stored: this process finds it at its next look
            await self._following.look()
        await self._following.publish(self._live.current.sequence)
