"""What every service stands on: the stores, the keys and tables of its scope, and the configuration that it follows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from kdcube.config.service import ServiceSettings
from kdcube.gateway.adopting import adopt_config
from kdcube.gateway.applying import follow_config
from kdcube.gateway.following import Following
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.measuring import sampling, watch_process, watch_stores
from kdcube.gateway.tracing import open_tracing
from kdcube.postgres.audit import Audit
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.gateway_configs import GatewayConfigs
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.server import check_server
from kdcube.redis.subscriber import Subscriber, open_subscriber
from kdcube.telemetry.instruments import Instruments
from kdcube.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Foundation:
    """Open as long as the context of ``open_foundation``."""

    service: ServiceSettings
    scope: tuple[str, str]
    """Tenant and project."""
    keys: Keys
    connection: Connection
    subscriber: Subscriber
    live: LiveGateway
    database: Database
    audit: Audit
    configs: GatewayConfigs
    following: Following
    instruments: Instruments
    """Of this process: the stores are watched already."""
    tracing: Tracing


@asynccontextmanager
async def open_foundation(
    service: ServiceSettings, *, pool: tuple[int, int] | None = None
) -> AsyncGenerator[Foundation]:
    """Connects to the stores, and runs the configuration that is to be run from now on. ``pool``: how many connections
    to PostgreSQL are kept and opened at most; else the configuration says it for the component.

    Raises ConfigurationError, StoreUnavailable.
    """
    name, scope = service.instance_id, (service.gateway.tenant, service.gateway.project)
    keys = Keys(*scope)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tracing = await enter(open_tracing(service))  # first: it is there for whatever ends later
        connection = await enter(open_connection(service.redis_url, name=name))
        await check_server(connection)
        subscriber = await enter(open_subscriber(service.redis_url, name=f"{name}-channels"))
        live = await adopt_config(service)
        pools = live.current.pools.of(service.component)
        least, most = pool or (pools.pg_pool_min_size, pools.pg_pool_max_size)
        database = await enter(open_database(service.database_url, min_size=least, max_size=most, name=name))
        audit = Audit(database, *scope)
        configs = GatewayConfigs(database, audit, *scope)
        following = await enter(follow_config(live, configs, connection, subscriber, keys).following())
        instruments = Instruments()
        watch_process(instruments)
        watch_stores(instruments, database, connection)
        instruments.counted("spans_sent", lambda: tracing.sent)
        instruments.counted("spans_lost", lambda: tracing.lost)
        await enter(sampling(instruments, connection))
        yield Foundation(
            service,
            scope,
            keys,
            connection,
            subscriber,
            live,
            database,
            audit,
            configs,
            following,
            instruments,
            tracing,
        )
