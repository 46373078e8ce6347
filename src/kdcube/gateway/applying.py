"""Applies the last version of the gateway configuration to a process that runs."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.adopting import unreadable
from kdcube.gateway.documents import InvalidDocument, resolved
from kdcube.gateway.following import CHECK_S, Following
from kdcube.gateway.live import LiveGateway, Source
from kdcube.postgres.gateway_configs import GatewayConfigs
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import Subscriber

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def follow_config(
    live: LiveGateway,
    configs: GatewayConfigs,
    connection: Connection,
    subscriber: Subscriber,
    keys: Keys,
    *,
    check_s: float = CHECK_S,
) -> Following:
    """Keeps ``live`` on what ``configs`` says is to be run, as long as it follows."""

    async def look() -> None:
        stored = await configs.last()
        if stored is None or stored.version == live.source.version:
            return
        try:
            config = resolved(stored.document, (live.current.tenant, live.current.project)).config
        except InvalidDocument as error:
            problem = unreadable(stored, error)
            if live.source.problem != problem:  # said once, not every few seconds
                logger.error("gateway.stored_config_unreadable", version=stored.version, reason=str(error))
                live.source = Source(live.source.version, problem)
            return
        live.apply(config, Source(stored.version))
        logger.info("gateway.config_applied", version=stored.version, checksum=live.checksum)

    return Following(look, connection, subscriber, keys.config_channel, of="gateway", check_s=check_s)
