"""How much may be called at once, and how often by those who have not signed in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.requests import Request

from kdcube.config.bundles import BundleEntry
from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import RateLimited
from kdcube.gateway.gate import Gate
from kdcube.gateway.identity.addresses import Addresses, network_of
from kdcube.gateway.live import LiveGateway
from kdcube.redis.buckets import take_token
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys


class Places:
    """The operations of this process: so many at once in all and of each bundle, shared fairly among callers."""

    def __init__(self, live: LiveGateway) -> None:
        self._all = Gate(live.current.limits.proc.max_integrations_ops_concurrency)
        self._of_bundle: dict[str, Gate] = {}
        live.subscribe(self._take_over)

    def _take_over(self, config: GatewayConfig) -> None:
        self._all.limit = config.limits.proc.max_integrations_ops_concurrency

    @property
    def taken(self) -> int:
        return self._all.inside

    @property
    def limit(self) -> int:
        return self._all.limit

    @property
    def waiting(self) -> int:
        return self._all.waiting + sum(gate.waiting for gate in self._of_bundle.values())

    @asynccontextmanager
    async def entered(self, entry: BundleEntry, who: str) -> AsyncGenerator[None]:
        """Inside. Raises Unavailable when no place has become free in time."""
        async with AsyncExitStack() as stack:
            if entry.operation_concurrency is not None:  # first: who waits for the bundle takes no place from others
                gate = self._of_bundle.setdefault(entry.id, Gate(entry.operation_concurrency))
                gate.limit = entry.operation_concurrency
                await stack.enter_async_context(gate.entered(who))
            await stack.enter_async_context(self._all.entered(who))
            yield


class PublicRate:
    """Calls of public operations by those who have not signed in, by their address, over all processes."""

    def __init__(self, connection: Connection, keys: Keys, live: LiveGateway, addresses: Addresses) -> None:
        self._connection = connection
        self._keys = keys
        self._live = live
        self._addresses = addresses

    def address(self, request: Request) -> str:
        return network_of(self._addresses.of(request))

    async def count(self, request: Request, caller: Caller | None) -> None:
        """Raises RateLimited; StoreUnavailable when it cannot be counted. This machine itself is not counted."""
        per_minute = self._live.current.limits.proc.max_public_operations_per_minute
        address = self._addresses.of(request)
        if not per_minute or address.is_loopback or (caller is not None and not caller.anonymous):
            return
        key = self._keys.public_calls(network_of(address))
        wait_s = await take_token(self._connection, key, burst=per_minute, per_s=per_minute / 60)
        if wait_s:
            raise RateLimited("Too many calls from this address.", retry_after_s=wait_s, error="rate_limit_address")
