"""The proxylogin application: its parts, opened in order, and its routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from kdcube.config.auth import Cors
from kdcube.config.gateway import GatewayConfig
from kdcube.config.proxylogin import CALLBACK_PATH, ProxyLoginSettings
from kdcube.gateway.edge import Edge, with_cors
from kdcube.gateway.foundation import open_foundation
from kdcube.gateway.identity.addresses import Addresses, Allowance, Buckets
from kdcube.gateway.identity.logins import LoginResolver
from kdcube.gateway.identity.openid import open_openid
from kdcube.gateway.identity.opening import rules_of
from kdcube.gateway.identity.sealing import Keyring
from kdcube.gateway.internal import internal_port
from kdcube.gateway.measuring import watch_breaker
from kdcube.gateway.probes import Probes
from kdcube.gateway.reporting import Reporting
from kdcube.gateway.routing import no_route, route
from kdcube.gateway.traffic import Traffic
from kdcube.postgres.logins import Logins
from kdcube.proxylogin.attempts import Attempts
from kdcube.proxylogin.keeping import Keeping
from kdcube.proxylogin.pages import failure
from kdcube.proxylogin.provider import SignIns
from kdcube.proxylogin.refreshing import Refresher
from kdcube.proxylogin.routes import AuthRoutes
from kdcube.proxylogin.token_endpoint import open_token_endpoint
from kdcube.redis.logins import LoginCache
from kdcube.redis.sources import Sources

SIGN_IN_REQUESTS = 2
"""What one sign-in takes of its address: going to the provider and coming back."""
SIGN_INS_AGAIN_S = 40.0
"""After so long an address may begin as many as at first."""


class ProxyLogin:
    """The running application, itself ASGI."""

    def __init__(self, app: ASGIApp, probes: Probes, refresher: Refresher) -> None:
        self._app = app
        self._probes = probes
        self.refresher = refresher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def drain(self) -> None:
        """Asks load balancers to send no more, and stores what the provider still answers."""
        self._probes.draining = True
        await self.refresher.drain()


@asynccontextmanager
async def open_proxylogin(
    settings: ProxyLoginSettings, *, clock: Callable[[], float] = time.time
) -> AsyncGenerator[ProxyLogin]:
    """Connects to the stores and builds the application. Raises ConfigurationError, StoreUnavailable."""
    service = settings.service
    keyring = Keyring(settings.logins.keys)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        foundation = await enter(open_foundation(service, pool=(1, 4)))
        connection, database, live = foundation.connection, foundation.database, foundation.live
        logins = Logins(database, foundation.audit, *foundation.scope)
        cache = LoginCache(connection, foundation.keys)
        provider = await enter(open_openid(settings.openid))
        tokens = await enter(open_token_endpoint(settings.openid.client_ids[0], settings.client_secret))
        sign_ins = SignIns(
            provider,
            rules_of(settings.openid),
            tokens,
            scopes=settings.scopes,
            callback_url=settings.callback_url,
            signed_out_url=settings.signed_out_url,
        )
        keeping = Keeping(keyring, idle_s=settings.idle_s, lifetime_s=settings.lifetime_s, grace_s=settings.grace_s)
        refresher = Refresher(
            logins,
            cache,
            sign_ins,
            keeping,
            instance=service.instance_id,
            instruments=foundation.instruments,
            clock=clock,
        )
        running = asyncio.create_task(refresher.run(), name="proxylogin-refresher")
        stack.push_async_callback(_ended, running, refresher)

        async def valkey() -> None:
            await connection.call("PING")

        async def refreshing() -> None:
            if running.done() and not probes.draining:
                running.result()

        probes = Probes(
            service="proxylogin",
            instance=service.instance_id,
            report=lambda: live.report("proxylogin"),
            checks={"valkey": valkey, "postgres": database.ping, "refresher": refreshing},
        )
        buckets = Buckets()
        live.subscribe(lambda config: buckets.allow(_sign_ins(config)))
        routes = AuthRoutes(
            Attempts(keyring, clock=clock),
            sign_ins,
            keeping,
            logins,
            LoginResolver(logins, cache, keyring, clock=clock),
            refresher,
            foundation.audit,
            site=settings.return_url,
            origins={settings.logins.public_url, settings.return_url},
            secure=settings.logins.secure,
            addresses=Addresses(settings.trusted_proxies),
            buckets=buckets,
            instruments=foundation.instruments,
            clock=clock,
        )
        instruments = foundation.instruments
        watch_breaker(instruments, "identity_provider", provider.breaker)
        watch_breaker(instruments, "identity_provider_tokens", tokens.breaker)
        reporting = Reporting(Sources(connection, foundation.keys), instruments, live, service, "proxylogin")
        await enter(reporting.reporting())
        await enter(internal_port(service, instruments))
        shapes = {"/auth/login": failure, CALLBACK_PATH: failure}
        edge = Edge(_router(routes, probes), shapes, Traffic(instruments), foundation.tracing)
        cors = Cors(allow_origins=(settings.return_url,), allow_credentials=True, allow_methods=("GET", "POST"))
        elsewhere = settings.return_url != settings.logins.public_url
        yield ProxyLogin(with_cors(edge, cors) if elsewhere else edge, probes, refresher)


def _sign_ins(config: GatewayConfig) -> Allowance:
    """Of one address, behind which there may be a whole office in the morning."""
    requests = SIGN_IN_REQUESTS * config.limits.ingress.max_sign_ins_per_address
    return Allowance(burst=requests, per_s=requests / SIGN_INS_AGAIN_S)


async def _ended(running: asyncio.Task[None], refresher: Refresher) -> None:
    await refresher.drain()
    await asyncio.wait({running})


def _router(auth: AuthRoutes, probes: Probes) -> Router:
    return Router(
        [
            route("/auth/login", GET=auth.login),
            route(CALLBACK_PATH, GET=auth.callback),
            route("/auth/logout", POST=auth.logout),
            route("/auth/backchannel-logout", POST=auth.backchannel_logout),
            route("/auth/session", GET=auth.session),
            route("/auth/openapi.json", GET=auth.openapi),
            route("/health", GET=probes.health),
            route("/ready", GET=probes.ready),
        ],
        redirect_slashes=False,
        default=no_route,
    )
