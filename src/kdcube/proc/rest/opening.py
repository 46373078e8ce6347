"""What operations need, opened in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from kdcube.config.bundles import BundleEntry
from kdcube.config.callers import CallerSettings
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.foundation import Foundation
from kdcube.gateway.identity.knowing import open_callers
from kdcube.gateway.identity.proofs import ProofWatch
from kdcube.gateway.measuring import watch_breaker
from kdcube.gateway.turns.taking import open_taking
from kdcube.postgres.turns import Turns
from kdcube.proc.bundles.pool import HostPool
from kdcube.proc.desk import BundleGrant
from kdcube.proc.rest.operations import OperationRoutes
from kdcube.proc.rest.places import Places, PublicRate
from kdcube.redis.epoch import EpochWatch


@asynccontextmanager
async def open_operations(
    settings: CallerSettings,
    foundation: Foundation,
    *,
    pool: HostPool,
    bundles: LiveBundles,
    grants: Callable[[BundleEntry], Awaitable[BundleGrant]],
    turns: Turns,
    epochs: EpochWatch,
) -> AsyncGenerator[OperationRoutes]:
    """Raises ConfigurationError, StoreUnavailable."""
    live, instruments = foundation.live, foundation.instruments
    async with AsyncExitStack() as stack:
        knowing = await stack.enter_async_context(open_callers(settings, foundation))
        taking = await stack.enter_async_context(open_taking(foundation, knowing.limiter, turns, epochs, bundles))
        if knowing.authenticator.breaker is not None:
            watch_breaker(instruments, "identity_provider", knowing.authenticator.breaker)
        places = Places(live)
        instruments.gauge("operations_running", lambda: places.taken)
        instruments.gauge("operations_waiting", lambda: places.waiting)
        instruments.gauge("operations_cap", lambda: places.limit)
        routes = OperationRoutes(
            scope=foundation.scope,
            live=live,
            callers=knowing.callers,
            limiter=knowing.limiter,
            public_rate=PublicRate(foundation.connection, foundation.keys, live, knowing.addresses),
            places=places,
            pool=pool,
            bundles=bundles,
            grants=grants,
            taking=taking,
            instruments=instruments,
            tracing=foundation.tracing,
        )
        watch = ProofWatch(routes.running, knowing.logins and knowing.logins.logins, knowing.stored_keys)
        await stack.enter_async_context(watch.watching())
        yield routes
