"""Looks for new commits of the bundles that want it (``git_poll_s``), on the proc that leads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.bundles.live import LiveBundles, ServedRelease
from kdcube.postgres.audit import Actor
from kdcube.postgres.release_records import Release
from kdcube.postgres.releases import Releases
from kdcube.proc.bundles.sources.source import SourceError
from kdcube.protocol.errors import KDCubeError

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
_LOOKED_AT = 20
"""Releases, for the last one that followed the branch."""


class Refs(Protocol):
    async def resolve(self, entry: BundleEntry) -> str:
        """The commit that the entry's ref names now. Raises SourceError."""
        ...


class Polling:
    """``run`` is a duty of the leader."""

    def __init__(
        self, live: LiveBundles, releases: Releases, refs: Refs, actor: Actor, *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._live = live
        self._releases = releases
        self._refs = refs
        self._actor = actor
        self._clock = clock
        self._next: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    async def run(self) -> None:
        """Until it is cancelled. Bundles do not wait for each other."""
        looking: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for bundle_id, served in self._live.current.releases.items():
                    if bundle_id not in looking and self._is_due(bundle_id, served.entry):
                        looking[bundle_id] = asyncio.create_task(
                            self._look(bundle_id, served), name=f"poll {bundle_id}"
                        )
                await asyncio.sleep(LOOK_EVERY_S)
                for bundle_id, task in list(looking.items()):
                    if task.done():
                        del looking[bundle_id]
                        task.result()
        finally:
            for task in looking.values():
                task.cancel()
            await asyncio.gather(*looking.values(), return_exceptions=True)

    def _is_due(self, bundle_id: str, entry: BundleEntry) -> bool:
        if entry.git_poll_s is None or not entry.fetched:
            self._next.pop(bundle_id, None)
            return False
        now = self._clock()
        due = self._next.setdefault(bundle_id, now + entry.git_poll_s)  # it was resolved when it was released
        if due > now:
            return False
        self._next[bundle_id] = now + entry.git_poll_s
        return True

    async def _look(self, bundle_id: str, served: ServedRelease) -> None:
        try:
            head = await self._refs.resolve(served.entry)
            self._problems.pop(bundle_id, None)
            recent = (await self._releases.history(bundle_id, limit=_LOOKED_AT)).items
            if not is_news(head, recent):
                return
            base = next(release for release in recent if release.state == "ready")
            wanted = await self._releases.want(
                bundle_id, entry=base.entry, revision=head, origin="poll", actor=self._actor, after=recent[0].number
            )
            if isinstance(wanted, Release):
                log.info("new_commit", bundle=bundle_id, release=wanted.number, revision=head)
        except SourceError as error:
            if self._problems.get(bundle_id) != str(error):  # said once, not every few seconds
                log.warning("bundle_not_polled", bundle=bundle_id, reason=str(error))
            self._problems[bundle_id] = str(error)
        except KDCubeError as error:
            log.warning("bundle_not_polled", bundle=bundle_id, reason=str(error))


def is_news(head: str, recent: Sequence[Release]) -> bool:
    """Whether ``head`` is to be released, given the last releases, newest first.

    A commit that was released when the branch named it is not released again by looking: neither when it failed, nor
    when somebody went back from it. What is still to be prepared is waited for.
    """
    ready = next((release for release in recent if release.state == "ready"), None)
    if ready is None or ready.entry is None or recent[0].state == "wanted":
        return False
    followed = next((release for release in recent if release.origin != "rollback"), None)
    return followed is None or followed.revision != head
