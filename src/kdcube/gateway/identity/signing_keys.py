"""The keys that a provider signs with, as its JWKS tells them. No token can name a place to fetch one from."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from kdcube.gateway.identity.kept import Kept

MAX_KEYS = 64
RSA_MIN_BITS = 2048
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


class Jwks(msgspec.Struct):
    """A JWKS. Its members are judged one by one: a provider may have keys of kinds that are not known here."""

    keys: list[dict[str, Any]]


JWKS = msgspec.json.Decoder(Jwks)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key for signatures. ``fingerprint`` tells it from every other one."""

    kid: str | None
    algorithms: frozenset[str]
    key: RSAKey | ECKey
    fingerprint: str


class KeySet:
    """The keys of one JWKS."""

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        self._keys = tuple(keys)
        self._fingerprints = frozenset(key.fingerprint for key in self._keys)

    def holds(self, fingerprint: str) -> bool:
        return fingerprint in self._fingerprints

    def find(self, kid: str | None, algorithm: str) -> SigningKey | None:
        """The key of that id. A token may leave the id out only where there is no choice."""
        fitting = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.kid)]
        return fitting[0] if len(fitting) == 1 else None


class SigningKeys:
    """Finds keys in a JWKS that is kept; looks there again, now and then, when one is unknown."""

    def __init__(self, kept: Kept[KeySet]) -> None:
        self._kept = kept

    def holds(self, fingerprint: str) -> bool:
        """Whether the provider still signs with that key, as far as is known without waiting."""
        keys = self._kept.peek()
        return keys is None or keys.holds(fingerprint)

    async def find(self, kid: str | None, algorithm: str) -> SigningKey | None:
        """Raises Unavailable when it is not here and cannot be looked for."""
        key = (await self._kept.get()).find(kid, algorithm)
        return key or (await self._kept.again()).find(kid, algorithm)


def key_set(jwks: Jwks) -> KeySet:
    """What can verify a signature; the rest is passed over."""
    return KeySet(key for jwk in jwks.keys[:MAX_KEYS] if (key := _signing_key(jwk)) is not None)


def _signing_key(jwk: Mapping[str, Any]) -> SigningKey | None:
    algorithms, uses = _algorithms(jwk), jwk.get("key_ops", ["verify"])
    if not algorithms or jwk.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    kid = jwk.get("kid")
    parts = {name: jwk[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in jwk}
    try:
        if jwk["kty"] == "RSA" and len(urlsafe_b64decode(parts["n"] + "==")) * 8 < RSA_MIN_BITS:
            return None
        key = RSAKey.import_key(parts) if jwk["kty"] == "RSA" else ECKey.import_key(parts)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    fingerprint = hashlib.sha256(msgspec.json.encode([kid, parts], order="sorted")).hexdigest()
    return SigningKey(kid if isinstance(kid, str) else None, algorithms, key, fingerprint)


def _algorithms(jwk: Mapping[str, Any]) -> frozenset[str]:
    """What a key may verify: what its kind can, and no other than the one that it names."""
    match jwk.get("kty"):
        case "RSA":
            able = _RSA
        case "EC":
            able = frozenset({_CURVES[crv]} if (crv := str(jwk.get("crv"))) in _CURVES else ())
        case _:
            return frozenset()
    named = jwk.get("alg")
    return able if named is None else able & {str(named)}
