"""Where a browser signs out at its provider."""

from __future__ import annotations

import pytest

from kdcube.config.load import load
from kdcube.config.openid import OpenIdSettings, read_cognito, read_oidc
from kdcube.gateway.identity.openid import Metadata
from kdcube.proxylogin.sign_out import sign_out_url

ISSUER = "https://id.example.org"
SITE = "https://chat.example.org/"


class Oidc:
    read = staticmethod(read_oidc)


class Cognito:
    read = staticmethod(read_cognito)


def url(settings: OpenIdSettings, id_token: str | None = None, **metadata: str) -> str | None:
    told = Metadata(issuer=ISSUER, jwks_uri=f"{ISSUER}/jwks", **metadata)
    return sign_out_url(settings, told, client_id="chat", back_to=SITE, id_token=id_token)


@pytest.fixture
def standard() -> OpenIdSettings:
    return load(Oidc, {"OIDC_ISSUER": ISSUER, "OIDC_CLIENT_ID": "chat"})


@pytest.fixture
def cognito() -> OpenIdSettings:
    return load(Cognito, {"COGNITO_USER_POOL_ID": "eu-west-1_AbCdEf123", "COGNITO_APP_CLIENT_ID": "chat"})


def test_by_the_standard(standard: OpenIdSettings) -> None:
    back = "client_id=chat&post_logout_redirect_uri=https%3A%2F%2Fchat.example.org%2F"
    assert url(standard) is None
    assert url(standard, end_session_endpoint=f"{ISSUER}/end") == f"{ISSUER}/end?{back}"
    assert (
        url(standard, "e.y.J", end_session_endpoint=f"{ISSUER}/end?p=1")
        == f"{ISSUER}/end?p=1&{back}&id_token_hint=e.y.J"
    )


def test_at_a_user_pool(cognito: OpenIdSettings) -> None:
    back = "client_id=chat&logout_uri=https%3A%2F%2Fchat.example.org%2F"
    domain = "https://acme.auth.eu-west-1.amazoncognito.com"
    expected = f"{domain}/logout?{back}"
    assert url(cognito, "e.y.J", authorization_endpoint=f"{domain}/oauth2/authorize") == expected
    assert url(cognito, "e.y.J", end_session_endpoint=f"{domain}/logout") == expected
    assert url(cognito, authorization_endpoint=f"{domain}/elsewhere") is None
    assert url(cognito) is None
