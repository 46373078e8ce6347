"""Keeps a process on what is registered."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.bundles.reading import read_registered
from kdcube.gateway.following import CHECK_S, Following
from kdcube.postgres.releases import Releases
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import Subscriber

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def follow_bundles(
    live: LiveBundles,
    releases: Releases,
    connection: Connection,
    subscriber: Subscriber,
    keys: Keys,
    *,
    check_s: float = CHECK_S,
) -> Following:
    """Keeps ``live`` on what ``releases`` says is to be served, as long as it follows. Sequences are published."""

    async def look() -> None:
        if await releases.sequence() in (0, live.current.sequence):
            return
        registered = await read_registered(releases, live.current)
        live.apply(registered)
        logger.info("bundles.applied", sequence=registered.sequence, bundles=sorted(registered.releases))

    return Following(look, connection, subscriber, keys.bundles_channel, of="bundles", check_s=check_s)
