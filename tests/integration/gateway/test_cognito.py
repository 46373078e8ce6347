"""Tokens in the shapes of Amazon Cognito. No real user pool is asked: keys come from a server that speaks like one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.openid.provider import OpenIdProvider

from kdcube.config.auth import AuthSettings
from kdcube.config.load import load
from kdcube.gateway.identity.authenticator import Authenticator, Identity, user_type_of
from kdcube.gateway.identity.opening import open_authenticator
from kdcube.protocol.turns import UserType

pytestmark = pytest.mark.anyio

POOL = "eu-west-1_AbCdEf123"
SUB = "3255a4c4-10c1-70b5-8d5f-6b3a2f1c9e07"


class Cognito:
    """Mints as a user pool does."""

    def __init__(self, provider: OpenIdProvider, authenticator: Authenticator) -> None:
        self.provider = provider
        self.issuer = f"{provider.issuer}/{POOL}"
        self.authenticator = authenticator

    def access(self, **changed: Any) -> str:
        return self._mint(
            {
                "token_use": "access",
                "client_id": "app",
                "username": "paula",
                "scope": "aws.cognito.signin.user.admin openid",
                "aud": None,
                **changed,
            }
        )

    def identity(self, **changed: Any) -> str:
        return self._mint(
            {
                "token_use": "id",
                "aud": "app",
                "client_id": None,
                "cognito:username": "paula",
                "email": "paula@example.org",
                "email_verified": True,
                **changed,
            }
        )

    def _mint(self, claims: dict[str, Any]) -> str:
        common = {"iss": self.issuer, "sub": SUB, "cognito:groups": ["kdcube:role:paid"], "auth_time": 1}
        return self.provider.mint({**common, **claims}, header={"typ": None})

    async def knows(self, token: str | None, id_token: str | None = None) -> bool:
        return await self.authenticator.authenticate(token, id_token) is not None


@pytest.fixture
async def cognito(openid_provider: OpenIdProvider) -> AsyncGenerator[Cognito]:
    variables = {
        "AUTH_PROVIDER": "cognito",
        "COGNITO_REGION": "eu-west-1",
        "COGNITO_USER_POOL_ID": POOL,
        "COGNITO_APP_CLIENT_ID": "app",
        "COGNITO_SERVICE_CLIENT_ID": "jobs",
        "COGNITO_ISSUER": f"{openid_provider.issuer}/{POOL}",
    }
    async with open_authenticator(load(AuthSettings, variables)) as authenticator:
        yield Cognito(openid_provider, authenticator)


async def test_groups_are_roles_and_the_id_token_completes_the_person(cognito: Cognito) -> None:
    roles = ("kdcube:role:paid",)
    told = await cognito.authenticator.authenticate(cognito.access())
    assert told == Identity(SUB, "paula", None, roles)
    assert user_type_of(told.roles) is UserType.PAID
    for given in ((cognito.access(), cognito.identity()), (None, cognito.identity())):
        assert await cognito.authenticator.authenticate(*given) == Identity(SUB, "paula", "paula@example.org", roles)
    assert await cognito.knows(cognito.access(client_id="jobs"))
    unverified = await cognito.authenticator.authenticate(None, cognito.identity(email_verified="false"))
    assert unverified is not None and unverified.email is None


async def test_what_is_not_for_us_is_refused(cognito: Cognito) -> None:
    for token in (
        cognito.access(client_id="another-app"),
        cognito.access(client_id=None, aud="app"),
        cognito.access(token_use="id"),
        cognito.access(token_use=None),
        cognito.access(iss=f"{cognito.provider.issuer}/eu-west-1_Other"),
        cognito.access(iss="https://cognito-idp.eu-west-1.amazonaws.com/" + POOL),
        cognito.access(exp=1),
        cognito.identity(),
    ):
        assert not await cognito.knows(token)
    for token in (
        cognito.identity(aud="another-app"),
        cognito.identity(token_use="access"),
        cognito.identity(aud=None, client_id="app"),
        cognito.access(),
    ):
        assert not await cognito.knows(None, token)
    assert not await cognito.knows(cognito.access(), cognito.identity(sub="another"))
    assert not await cognito.knows(cognito.provider.mint({"iss": cognito.issuer, "token_use": "access"}, key="ES256"))
