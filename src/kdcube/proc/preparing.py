"""Prepares the releases that are wanted, on the proc that leads: what does not load here is never served anywhere.

A release is settled in PostgreSQL, once. A proc that dies before that leaves it wanted, and the next leader prepares it
again: nothing of it has been served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.bundles.entries import entry_of
from kdcube.gateway.following import Following
from kdcube.postgres.release_records import Release
from kdcube.postgres.releases import Releases
from kdcube.proc.bundles.host import BundleLoadError
from kdcube.proc.bundles.launching import CodeMissing, Prepared
from kdcube.protocol.errors import KDCubeError
from kdcube.telemetry.failpoints import hit

log = structlog.get_logger()

LOOK_EVERY_S = 2.0
"""Without being told that something is wanted."""
RETRY_S = 30.0
"""What the environment names and cannot be had is tried again after so long: nobody waits for an answer."""
AT_ONCE = 2
"""Releases, of different bundles: one that waits for its server keeps no other waiting."""


class Trial(Protocol):
    async def try_out(self, entry: BundleEntry, revision: str | None) -> Prepared:
        """Raises BundleLoadError."""
        ...


class Preparing:
    """``run`` is a duty of the leader."""

    def __init__(
        self, releases: Releases, trial: Trial, following: Following, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._releases = releases
        self._trial = trial
        self._following = following
        self._clock = clock
        self._room = asyncio.Semaphore(AT_ONCE)
        self._news = asyncio.Event()
        self._retries: dict[tuple[str, int], float] = {}
        """By release, when it is tried again."""
        self._followed: set[str] = set()
        """Bundles of which more is wanted than the first."""
        self.problems: dict[str, str] = {}
        """By bundle, why a release of it is still wanted."""

    def hurry(self) -> None:
        """Something may be wanted."""
        self._news.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        working: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for release in await self._wanted():
                    if release.bundle_id not in working and self._is_due(release):
                        working[release.bundle_id] = asyncio.create_task(self._prepare(release), name=release.name)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._news.wait()
                self._news.clear()
                for bundle_id, task in list(working.items()):
                    if task.done():
                        del working[bundle_id]
                        task.result()
        finally:
            for task in working.values():
                task.cancel()
            await asyncio.gather(*working.values(), return_exceptions=True)

    async def _wanted(self) -> list[Release]:
        """Of each bundle the one that was asked for first."""
        try:
            first: dict[str, Release] = {}
            followed: set[str] = set()
            for release in await self._releases.wanted():
                if release is not first.setdefault(release.bundle_id, release):
                    followed.add(release.bundle_id)
        except KDCubeError as error:
            log.warning("releases wait", error=str(error))
            return []
        self.problems = {id_: problem for id_, problem in self.problems.items() if id_ in first}
        self._followed = followed
        return list(first.values())

    def _is_due(self, release: Release) -> bool:
        retry_at = self._retries.get((release.bundle_id, release.number), 0.0)
        return retry_at <= self._clock() or (release.bundle_id in self._followed and release.bundle_id in self.problems)

    async def _prepare(self, release: Release) -> None:
        async with self._room:
            try:
                await self._settle(release)
            except KDCubeError as error:  # a store is away: it is still wanted
                log.warning("release not settled", bundle=release.bundle_id, release=release.number, error=str(error))
                self._retries[release.bundle_id, release.number] = self._clock() + LOOK_EVERY_S
        self.hurry()

    async def _settle(self, release: Release) -> None:
        began = self._clock()
        says = log.bind(bundle=release.bundle_id, release=release.number, origin=release.origin)
        try:
            entry = entry_of(release.bundle_id, release.entry or {})
            prepared = await self._trial.try_out(entry, release.revision)
        except KDCubeError as error:
            reason = error.reason if isinstance(error, BundleLoadError) else str(error)
            may_wait = release.origin == "environment" and release.bundle_id not in self._followed
            if isinstance(error, CodeMissing) and may_wait:
                if self.problems.get(release.bundle_id) != reason:
                    says.error("bundle_not_prepared", reason=reason, again_s=RETRY_S)
                self.problems[release.bundle_id] = reason
                self._retries[release.bundle_id, release.number] = self._clock() + RETRY_S
                return
            settled = await self._fail(release, reason)
        except Exception as error:  # noqa: BLE001 - it must not end proc, and the next that leads, and the next
            says.exception("release_failed")
            settled = await self._fail(release, f"proc failed to prepare it: {type(error).__name__}: {error}")
        else:
            await hit("proc.prepare.tried")
            settled = await self._releases.settle_ready(release, prepared.revision)
            says.info("release_ready", version=prepared.version, seconds=round(self._clock() - began, 2))
        self._retries.pop((release.bundle_id, release.number), None)
        if settled:
            await hit("proc.prepare.settled")
            await self._following.publish(await self._releases.sequence())

    async def _fail(self, release: Release, reason: str) -> bool:
        await hit("proc.prepare.failed")
        log.error("release_failed", bundle=release.bundle_id, release=release.number, reason=reason)
        return await self._releases.settle_failed(release, reason)
