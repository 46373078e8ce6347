"""The OpenID provider of the tests does what tests rely on."""

from __future__ import annotations

import json

import httpx
import pytest
from joserfc import jws
from tests.openid.provider import OpenIdProvider


def claims_of(token: str) -> dict[str, object]:
    return json.loads(jws.extract_compact(token.encode()).payload)


def test_a_user_signs_in_is_refreshed_and_revoked(openid_provider: OpenIdProvider) -> None:
    for public in (False, True):
        client = openid_provider.client(public=public)
        tokens = openid_provider.sign_in(client, "paula")
        access, identity = claims_of(tokens.access_token), claims_of(tokens.id_token)
        assert (access["sub"], access["aud"], access["iss"]) == (
            "paula",
            openid_provider.audience,
            openid_provider.issuer,
        )
        assert access["roles"] == identity["roles"] == ["kdcube:role:paid"]
        assert (identity["aud"], identity["email"]) == (client.client_id, "paula@example.org")
        again = openid_provider.refresh(client, tokens.refresh_token)
        assert again.refresh_token != tokens.refresh_token
        openid_provider.revoke("paula")
        with pytest.raises(AssertionError, match="invalid_grant"):
            openid_provider.refresh(client, again.refresh_token)


def test_a_refresh_token_that_is_used_twice_ends_the_grant(openid_provider: OpenIdProvider) -> None:
    client = openid_provider.client()
    first = openid_provider.sign_in(client, "alice")
    second = openid_provider.refresh(client, first.refresh_token)
    for token in (first.refresh_token, second.refresh_token):
        with pytest.raises(AssertionError, match="invalid_grant"):
            openid_provider.refresh(client, token)


def test_keys_rotate(openid_provider: OpenIdProvider) -> None:
    before = {key["kid"] for key in openid_provider.public_keys()}
    kid = openid_provider.rotate_keys()
    after = {key["kid"] for key in openid_provider.public_keys()}
    assert before < after and kid in after - before
    openid_provider.rotate_keys(drop=True)
    assert not after & {key["kid"] for key in openid_provider.public_keys()}


def test_it_can_be_disturbed(openid_provider: OpenIdProvider) -> None:
    with openid_provider.answering(503):
        assert httpx.get(f"{openid_provider.issuer}/jwks").status_code == 503
    with openid_provider.paused(), pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{openid_provider.issuer}/jwks", timeout=0.1)
    assert openid_provider.public_keys()
    assert openid_provider.requests()["/jwks"] >= 1
    with openid_provider.lifetimes(AccessToken=7):
        claims = claims_of(openid_provider.sign_in(openid_provider.client(), "alice").access_token)
    assert claims["exp"] == int(str(claims["iat"])) + 7
