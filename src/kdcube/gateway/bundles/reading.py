"""From the stored registry to what a process serves."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.bundles.entries import InvalidEntry, entry_of
from kdcube.gateway.bundles.live import Registered, ServedRelease
from kdcube.postgres.release_records import Release
from kdcube.postgres.releases import Releases

_LOOKED_AT = 20
"""Earlier releases, for one that this release of KDCube can read."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def read_registered(releases: Releases, before: Registered) -> Registered:
    """What is to be served, given what this process served ``before``; ``before`` when nothing was ever registered.

    For a release whose entry this release of KDCube cannot read, as a later one wrote it, what is served goes on, or
    the last one before it that can be read, or the environment's; it is told in ``problems``. Raises StoreUnavailable.
    """
    stored = await releases.served()
    if stored.sequence == 0:
        return before
    served: dict[str, ServedRelease] = {}
    problems: dict[str, str] = {}
    for bundle_id, release in stored.releases.items():
        try:
            served[bundle_id] = _served(release)
        except InvalidEntry as error:
            problems[bundle_id] = f"release {release.number} cannot be read by this release of KDCube: {error}"
            running = before.releases.get(bundle_id)
            instead = running if running and running.number else await _readable(releases, release) or running
            if instead is not None:
                served[bundle_id] = instead
            if before.problems.get(bundle_id) != problems[bundle_id]:  # said once, not every few seconds
                logger.error(
                    "bundles.stored_entry_unreadable",
                    bundle=bundle_id,
                    release=release.number,
                    reason=str(error),
                    instead=instead and instead.number,
                )
    unready = {
        bundle_id: problems.get(bundle_id) or last.problem
        for bundle_id, last in stored.last.items()
        if bundle_id not in served and last.entry is not None
    }
    default = stored.default_bundle_id if stored.default_bundle_id in {*served, *unready} else None
    if default is None and len(served) == 1:
        default = next(iter(served))
    return Registered(stored.sequence, default, served, unready, problems)


def _served(release: Release) -> ServedRelease:
    assert release.entry is not None
    return ServedRelease(entry_of(release.bundle_id, release.entry), release.number, release.revision)


async def _readable(releases: Releases, unreadable: Release) -> ServedRelease | None:
    for release in await releases.ready_before(unreadable.bundle_id, unreadable.number, _LOOKED_AT):
        try:
            return _served(release)
        except InvalidEntry:
            continue
    return None
