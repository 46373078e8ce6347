"""Which Authenticator an installation has."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from kdcube.config.auth import AuthProvider, AuthSettings
from kdcube.config.openid import Claims, OpenIdSettings
from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.api_keys import ApiKeys, KeysFirst
from kdcube.gateway.identity.authenticator import Authenticator, NobodyKnown
from kdcube.gateway.identity.claims import Rules, StandardRules
from kdcube.gateway.identity.cognito import CognitoRules
from kdcube.gateway.identity.openid import open_openid
from kdcube.gateway.identity.simple import TokenFile
from kdcube.gateway.identity.verified import OpenIdAuthenticator


@asynccontextmanager
async def open_authenticator(auth: AuthSettings, keys: ApiKeys | None = None) -> AsyncGenerator[Authenticator]:
    """The one that ``auth`` names, after API keys. A provider that is away is no reason not to start.

    Raises ConfigurationError for a file that cannot be read, and for an issuer that calls itself otherwise.
    """
    async with _open_provider(auth) as authenticator:
        yield authenticator if keys is None else KeysFirst(keys, authenticator)


@asynccontextmanager
async def _open_provider(auth: AuthSettings) -> AsyncGenerator[Authenticator]:
    if auth.openid is not None:
        async with _open_openid_authenticator(auth.openid) as authenticator:
            yield authenticator
    elif auth.provider is AuthProvider.SIMPLE and auth.idp_db_path is not None:
        yield TokenFile(auth.idp_db_path)
    else:
        yield NobodyKnown()


def rules_of(settings: OpenIdSettings) -> Rules:
    """What the provider's tokens mean."""
    return CognitoRules(settings) if settings.claims is Claims.COGNITO else StandardRules(settings)


@asynccontextmanager
async def _open_openid_authenticator(settings: OpenIdSettings) -> AsyncGenerator[OpenIdAuthenticator]:
    async with open_openid(settings) as provider:
        if settings.jwks_uri is None:
            with suppress(Unavailable):
                await provider.metadata()
        yield OpenIdAuthenticator(provider, rules_of(settings))
