"""Which configuration a process starts with: the stored one, else the environment's."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.gateway import GatewayConfig
from kdcube.config.service import ServiceSettings
from kdcube.gateway.documents import InvalidDocument, resolved
from kdcube.gateway.live import LiveGateway, Source
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import open_database
from kdcube.postgres.gateway_configs import GatewayConfigs, StoredConfig, Superseded

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def adopt_config(service: ServiceSettings) -> LiveGateway:
    """Asks PostgreSQL over a connection of its own, as the answer says how many connections the process may open.

    The stored version wins, unless ``service.gateway_from_environment``: then the environment's becomes the next
    version. One that this release cannot read is loudly left aside for the environment's.
    Raises StoreUnavailable, and ConfigurationError when the server breaks a promise.
    """
    scope = (service.gateway.tenant, service.gateway.project)
    async with open_database(
        service.database_url, min_size=1, max_size=1, name=f"{service.instance_id}-start"
    ) as database:
        configs = GatewayConfigs(database, Audit(database, *scope), *scope)
        stored = await configs.last()
        if service.gateway_from_environment:
            stored = await _impose(service, configs, stored)
    if stored is None:
        return LiveGateway(service.gateway)
    try:
        config = resolved(stored.document, scope).config
    except InvalidDocument as error:
        problem = unreadable(stored, error)
        logger.error("gateway.stored_config_unreadable", version=stored.version, reason=str(error))
        return LiveGateway(service.gateway, Source(0, problem))
    if config.checksum != service.gateway.checksum:
        logger.warning(
            "gateway.environment_not_used",
            version=stored.version,
            checksum=config.checksum,
            environment_checksum=service.gateway.checksum,
            remedy="GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP=1, or POST /admin/gateway-config/reset",
        )
    return LiveGateway(config, Source(stored.version))


async def config_to_run(service: ServiceSettings) -> GatewayConfig:
    """What a process that starts now will adopt; nothing is stored or said here. Raises StoreUnavailable."""
    scope = (service.gateway.tenant, service.gateway.project)
    if service.gateway_from_environment:
        return service.gateway
    async with open_database(service.database_url, min_size=1, max_size=1, name="config-to-run") as database:
        stored = await GatewayConfigs(database, Audit(database, *scope), *scope).last()
    try:
        return service.gateway if stored is None else resolved(stored.document, scope).config
    except InvalidDocument:
        return service.gateway


def unreadable(stored: StoredConfig, error: InvalidDocument) -> str:
    return f"version {stored.version} cannot be read by this release: {error}"


async def _impose(
    service: ServiceSettings, configs: GatewayConfigs, stored: StoredConfig | None
) -> StoredConfig | None:
    """The environment's as the last version. Of several processes that start at once, one stores it."""
    wanted = service.gateway.checksum
    while stored is None or stored.checksum != wanted:
        added = await configs.add(
            after=stored.version if stored else 0,
            document=service.gateway_document,
            checksum=wanted,
            actor=Actor(f"system:{service.instance_id}"),
            origin="environment",
            reason="GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP",
        )
        if not isinstance(added, Superseded):
            logger.warning("gateway.environment_imposed", version=added.version, checksum=wanted)
            return added
        stored = await configs.last()
    return stored
