"""Which keys of a JWKS are used, and for what."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from kdcube.gateway.identity.signing_keys import JWKS, Jwks, key_set


def public(key: Any, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": "k", **more}


RSA, EC = public(RSAKey.generate_key(2048)), public(ECKey.generate_key("P-256"))


def found(jwk: dict[str, Any], algorithm: str, kid: str | None = "k") -> bool:
    return key_set(Jwks([jwk])).find(kid, algorithm) is not None


def test_a_key_verifies_what_its_kind_can():
    assert found(RSA, "RS256") and found(RSA, "PS512") and not found(RSA, "ES256") and not found(RSA, "HS256")
    assert found(EC, "ES256") and not found(EC, "ES384") and not found(EC, "RS256")
    assert found({**RSA, "alg": "RS256", "use": "sig"}, "RS256")
    assert not found({**RSA, "alg": "RS256"}, "PS256")
    assert not found({**RSA, "alg": "HS256"}, "HS256")


@pytest.mark.parametrize(
    "jwk",
    [
        {**RSA, "use": "enc"},
        {**RSA, "key_ops": ["encrypt"]},
        {**RSA, "key_ops": 7},
        {**RSA, "kty": "oct"},
        {**RSA, "n": 7},
        {**RSA, "n": "!"},
        {**RSA, "e": ""},
        {**RSA, "alg": ["RS256"]},
        {**EC, "x": EC["y"]},
        {**EC, "crv": ["P-256"]},
        public(OctKey.generate_key(256), k="AAAA"),
        public(OKPKey.generate_key("Ed25519")),
        {**RSA, "n": RSA["n"][:171]},  # 1024 bits
        {"kty": "RSA"},
        {"kty": None},
        {},
    ],
)
def test_what_cannot_be_used_is_passed_over(jwk: dict[str, Any]):
    keys = key_set(Jwks([jwk, {**EC, "kid": "good"}]))
    assert keys.find("k", "RS256") is None and keys.find("k", "HS256") is None
    assert keys.find("good", "ES256") is not None


def test_the_id_may_be_missing_where_there_is_no_choice():
    one, other = public(ECKey.generate_key("P-256"), kid="one"), public(ECKey.generate_key("P-256"), kid="other")
    assert found(RSA, "RS256", None)
    assert not found(RSA, "RS256", "") and not found(RSA, "RS256", "K")
    assert key_set(Jwks([one, other])).find(None, "ES256") is None
    assert key_set(Jwks([one, RSA])).find(None, "ES256") is not None


def test_keys_are_told_apart_by_what_they_are():
    first, second = (public(ECKey.generate_key("P-256")) for _ in range(2))
    key = key_set(Jwks([first])).find("k", "ES256")
    assert key is not None
    assert key_set(Jwks([{**first, "x5t": "x"}, RSA])).holds(key.fingerprint)
    assert not key_set(Jwks([second])).holds(key.fingerprint)


def test_a_jwks_has_keys():
    assert JWKS.decode(b'{"keys": [], "more": 1}').keys == []
