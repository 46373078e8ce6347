"""How a service comes to know its callers: opened alike by each that takes their requests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.callers import CallerSettings
from kdcube.gateway.edge import allows_origin
from kdcube.gateway.foundation import Foundation
from kdcube.gateway.identity.addresses import Addresses, Openings
from kdcube.gateway.identity.api_keys import ApiKeys
from kdcube.gateway.identity.authenticator import Authenticator
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.identity.logins import LoginCookies, login_cookies
from kdcube.gateway.identity.opening import open_authenticator
from kdcube.gateway.identity.sessions import Sessions
from kdcube.gateway.limits import Limiter
from kdcube.postgres.api_keys import StoredKeys
from kdcube.redis.rates import Rates
from kdcube.redis.revocations import Revocations

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Knowing:
    """Open as long as the context of ``open_callers``."""

    callers: Callers
    limiter: Limiter
    addresses: Addresses
    authenticator: Authenticator
    stored_keys: StoredKeys
    revocations: Revocations
    api_keys: ApiKeys
    logins: LoginCookies | None


@asynccontextmanager
async def open_callers(settings: CallerSettings, foundation: Foundation) -> AsyncGenerator[Knowing]:
    """Raises ConfigurationError, StoreUnavailable."""
    connection, keys, scope = foundation.connection, foundation.keys, foundation.scope
    limiter = Limiter(Rates(connection, keys), foundation.live, foundation.service.component)
    stored_keys = StoredKeys(foundation.database, foundation.audit, *scope)
    revocations = Revocations(connection, foundation.subscriber, keys)
    if settings.session_secret is None and settings.auth.anonymous:
        logger.warning("identity.no_session_secret", remedy="KDCUBE_SESSION_SECRET, the same as that of ingress")
    secret = secrets.token_hex(32) if settings.session_secret is None else settings.session_secret.get_secret_value()
    async with AsyncExitStack() as stack:
        api_keys = await stack.enter_async_context(ApiKeys(stored_keys, revocations).running())
        logins = settings.logins and login_cookies(
            settings.logins, foundation.database, foundation.audit, connection, keys, scope
        )
        authenticator = await stack.enter_async_context(open_authenticator(settings.auth, api_keys))
        addresses = Addresses(settings.trusted_proxies)
        callers = Callers(
            settings.auth,
            authenticator,
            Sessions(secret, *scope),
            addresses=addresses,
            openings=Openings(connection, keys),
            limiter=limiter,
            allows_origin=allows_origin(settings.cors),
            logins=logins,
        )
        yield Knowing(callers, limiter, addresses, authenticator, stored_keys, revocations, api_keys, logins)
