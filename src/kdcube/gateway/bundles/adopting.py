"""Which bundles a process starts with: those that are registered, after the environment had its say."""

from __future__ import annotations

from functools import partial

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.config.service import ServiceSettings
from kdcube.gateway.bundles.entries import document_of, says_the_same
from kdcube.gateway.bundles.live import LiveBundles, Registered
from kdcube.gateway.bundles.reading import read_registered
from kdcube.postgres.audit import Actor
from kdcube.postgres.release_records import Given, Plan, Release, StoredRegistry
from kdcube.postgres.releases import Releases

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def registered_bundles(service: ServiceSettings, releases: Releases) -> LiveBundles:
    """What is registered; what the environment says as long as nothing is. Raises StoreUnavailable."""
    return LiveBundles(await read_registered(releases, Registered.of_environment(service.bundles)))


async def adopt_bundles(service: ServiceSettings, releases: Releases) -> LiveBundles:
    """As ``registered_bundles``, after what is new in the environment was registered. For proc, at its start.

    Of several that start at once one does it. Raises StoreUnavailable.
    """
    force = service.bundles_from_environment
    reason = "BUNDLES_FORCE_ENV_ON_STARTUP" if force else None
    before = await releases.served()
    stored = await releases.adopt(
        partial(adoption, service.bundles, force=force), Actor(f"system:{service.instance_id}"), reason
    )
    if stored.sequence != before.sequence:
        logger.info("bundles.environment_adopted", sequence=stored.sequence, forced=force)
    if aside := left_aside(service.bundles, stored):
        logger.warning(
            "bundles.environment_not_used",
            bundles=aside,
            remedy="BUNDLES_FORCE_ENV_ON_STARTUP=1, or the admin API",
        )
    return await registered_bundles(service, releases)


def adoption(environment: BundleRegistry, registered: StoredRegistry, *, force: bool = False) -> Plan:
    """What is to be registered of ``environment``. Pure.

    An entry is taken over when its bundle has no release, or when the last one that somebody made came from the
    environment and says something else, or failed. A bundle of the environment that is gone from it is taken away.
    What an administrator made stays, unless ``force``: then the environment's take the place of all.
    """
    given = [
        Given(bundle_id, document_of(entry), ready=_is_ready(entry))
        for bundle_id, entry in environment.bundles.items()
        if _takes_over(entry, registered, force=force)
    ]
    gone = [
        Given(bundle_id, None, ready=True)
        for bundle_id, decided in registered.decided.items()
        if bundle_id not in environment.bundles
        and decided.entry is not None
        and (force or decided.origin == "environment")
    ]
    wanted = environment.default_bundle_id
    free = force or registered.default_by == "environment"
    lost = registered.default_bundle_id in {one.bundle_id for one in gone}
    plan = Plan([*given, *gone])
    if (free or lost) and wanted != registered.default_bundle_id:
        return Plan(plan.releases, wanted)
    return plan


def _is_ready(entry: BundleEntry) -> bool:
    """A folder is what it is: proc tells at its start what is wrong with it. What is fetched is prepared first."""
    return not entry.fetched


def _takes_over(entry: BundleEntry, registered: StoredRegistry, *, force: bool) -> bool:
    decided, last = registered.decided.get(entry.id), registered.last.get(entry.id)
    if decided is None or last is None:
        return True
    if decided.origin != "environment" and not force:
        return False
    rolled_back = decided.origin == "rollback"
    return rolled_back or not says_the_same(decided.entry, entry) or _failed(decided, registered)


def _failed(decided: Release, registered: StoredRegistry) -> bool:
    """What has failed is tried again at a start, as long as nothing was tried since."""
    return decided.state == "failed" and registered.last[decided.bundle_id] is decided


def left_aside(environment: BundleRegistry, registered: StoredRegistry) -> list[str]:
    """Bundles for which the environment says something else than an administrator."""
    aside: list[str] = []
    for bundle_id, entry in environment.bundles.items():
        decided = registered.decided.get(bundle_id)
        if decided is not None and decided.origin != "environment" and not says_the_same(decided.entry, entry):
            aside.append(bundle_id)
    return sorted(aside)
