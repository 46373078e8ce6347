"""What is said of an OpenID provider, and what is wrong with it."""

from __future__ import annotations

import pytest

from kdcube.config.auth import AuthSettings
from kdcube.config.load import load
from kdcube.config.openid import ALGORITHMS, Claims, OpenIdSettings, is_protected
from kdcube.protocol.errors import ConfigurationError

OIDC = {"AUTH_PROVIDER": "oidc", "OIDC_ISSUER": "https://id.example.org", "OIDC_CLIENT_ID": "chat"}
COGNITO = {
    "AUTH_PROVIDER": "cognito",
    "COGNITO_REGION": "eu-west-1",
    "COGNITO_USER_POOL_ID": "eu-west-1_AbCdEf123",
    "COGNITO_APP_CLIENT_ID": "app",
}


def read(variables: dict[str, str], **more: str) -> OpenIdSettings:
    settings = load(AuthSettings, {**variables, **more}).openid
    assert settings is not None
    return settings


def test_oidc():
    told = read(OIDC)
    assert (told.issuer, told.client_ids, told.audiences) == ("https://id.example.org", ("chat",), ("chat",))
    assert (told.roles_claims, told.algorithms, told.skew_s) == (("roles",), frozenset(ALGORITHMS), 30)
    assert (told.claims, told.jwks_uri) == (Claims.STANDARD, None)
    told = read(
        OIDC,
        OIDC_AUDIENCE="api, other",
        OIDC_CLIENT_ID="chat cli",
        OIDC_ROLES_CLAIM="realm_access.roles,groups",
        OIDC_ALGORITHMS="ES256",
        OIDC_CLOCK_SKEW_SEC="5",
    )
    assert (told.client_ids, told.audiences) == (("chat", "cli"), ("api", "other"))
    assert (told.roles_claims, told.algorithms, told.skew_s) == (
        ("realm_access.roles", "groups"),
        frozenset({"ES256"}),
        5,
    )


def test_cognito():
    told = read(COGNITO)
    assert told.issuer == "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEf123"
    assert told.jwks_uri == f"{told.issuer}/.well-known/jwks.json"
    assert (told.client_ids, told.audiences, told.roles_claims) == (("app",), (), ("cognito:groups",))
    assert (told.claims, told.algorithms) == (Claims.COGNITO, frozenset({"RS256"}))
    without_region = {name: value for name, value in COGNITO.items() if name != "COGNITO_REGION"}
    assert read(without_region).issuer == told.issuer
    assert read(COGNITO, COGNITO_SERVICE_CLIENT_ID="jobs").client_ids == ("app", "jobs")


@pytest.mark.parametrize(
    ("variables", "wrong", "name"),
    [
        (OIDC, {"OIDC_ISSUER": ""}, "OIDC_ISSUER: is not set"),
        (OIDC, {"OIDC_ISSUER": "http://id.example.org"}, "OIDC_ISSUER: is 'http://id.example.org'"),
        (OIDC, {"OIDC_ISSUER": "http://127.0.0.1.example.org"}, "OIDC_ISSUER"),
        (OIDC, {"OIDC_ISSUER": "https://me:secret@id.example.org"}, "OIDC_ISSUER"),
        (OIDC, {"OIDC_ISSUER": "https://id.example.org?x=1"}, "OIDC_ISSUER"),
        (OIDC, {"OIDC_ISSUER": "https://[::1"}, "OIDC_ISSUER"),
        (OIDC, {"OIDC_CLIENT_ID": ""}, "OIDC_CLIENT_ID: is not set"),
        (OIDC, {"OIDC_ALGORITHMS": "RS256,HS256"}, "OIDC_ALGORITHMS: has 'HS256'"),
        (OIDC, {"OIDC_ALGORITHMS": "none"}, "OIDC_ALGORITHMS: has 'none'"),
        (OIDC, {"OIDC_CLOCK_SKEW_SEC": "301"}, "OIDC_CLOCK_SKEW_SEC"),
        (COGNITO, {"COGNITO_USER_POOL_ID": "pool"}, "COGNITO_USER_POOL_ID: is 'pool'"),
        (COGNITO, {"COGNITO_USER_POOL_ID": ""}, "COGNITO_USER_POOL_ID: is not set"),
        (COGNITO, {"COGNITO_REGION": "evil.test/"}, "COGNITO_REGION"),
        (COGNITO, {"COGNITO_APP_CLIENT_ID": ""}, "COGNITO_APP_CLIENT_ID: is not set"),
        (COGNITO, {"COGNITO_ISSUER": "http://evil.test"}, "COGNITO_ISSUER"),
        ({}, {"AUTH_PROVIDER": "saml"}, "AUTH_PROVIDER: is 'saml'; give one of simple, oidc, cognito, none"),
    ],
)
def test_a_mistake_is_told_with_its_variable(variables: dict[str, str], wrong: dict[str, str], name: str):
    with pytest.raises(ConfigurationError) as error:
        load(AuthSettings, {**variables, **wrong})
    assert str(error.value).startswith(name)
    assert "secret" not in str(error.value)


def test_what_can_be_believed():
    for url in ("https://id.example.org", "http://127.0.0.1:1/x", "http://localhost:1", "http://[::1]:1"):
        assert is_protected(url), url
    for url in ("http://id.example.org", "http://localhost.example.org", "ftp://127.0.0.1", "https://", "file:///x"):
        assert not is_protected(url), url
