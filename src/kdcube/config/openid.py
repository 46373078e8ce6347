"""The OpenID provider whose tokens are believed: OIDC_* for any, COGNITO_* for Amazon Cognito."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from kdcube.config.environment import Environment
from kdcube.protocol.errors import ConfigurationError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures by key pairs only: whoever can check one cannot make one."""
SKEW_DEFAULT_S = 30.0
SKEW_MAX_S = 300.0

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_POOL = re.compile(r"([\w-]+)_[0-9A-Za-z]+")


class Claims(StrEnum):
    """How a provider's tokens say what they say."""

    STANDARD = "standard"
    COGNITO = "cognito"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIdSettings:
    """A provider, and what its tokens must say to be believed here."""

    issuer: str
    client_ids: tuple[str, ...]
    """Id tokens must have been made for one of them; the first is the one that signs people in."""
    audiences: tuple[str, ...]
    """Access tokens must have been made for one of them. Not for Cognito, whose access tokens name the client."""
    claims: Claims
    roles_claims: tuple[str, ...]
    """Names of claims, or paths of names joined by dots; what they hold together are the roles."""
    algorithms: frozenset[str] = frozenset(ALGORITHMS)
    skew_s: float = SKEW_DEFAULT_S
    """How far the provider's clock may be off."""
    jwks_uri: str | None = field(default=None)
    """None: what the provider's discovery document says."""


def read_oidc(environment: Environment) -> OpenIdSettings:
    """AUTH_PROVIDER=oidc. Raises ConfigurationError."""
    issuer = _issuer(
        "OIDC_ISSUER", environment.required("OIDC_ISSUER", "give the provider's issuer, such as https://id.example.org")
    )
    clients = _names(environment.required("OIDC_CLIENT_ID", "give the client id that users sign in with"))
    algorithms = _names(environment.text("OIDC_ALGORITHMS", ",".join(ALGORITHMS)))
    if unknown := [name for name in algorithms if name not in ALGORITHMS]:
        raise ConfigurationError("OIDC_ALGORITHMS", f"has {unknown[0]!r}; give some of {', '.join(ALGORITHMS)}")
    return OpenIdSettings(
        issuer=issuer,
        client_ids=clients,
        audiences=_names(environment.text("OIDC_AUDIENCE", "")) or clients,
        claims=Claims.STANDARD,
        roles_claims=_names(environment.text("OIDC_ROLES_CLAIM", "roles")),
        algorithms=frozenset(algorithms),
        skew_s=_skew(environment),
    )


def read_cognito(environment: Environment) -> OpenIdSettings:
    """AUTH_PROVIDER=cognito. Raises ConfigurationError."""
    pool = environment.required("COGNITO_USER_POOL_ID", "give the user pool's id, such as eu-west-1_AbCdEf123")
    match = _POOL.fullmatch(pool)
    if match is None:
        raise ConfigurationError("COGNITO_USER_POOL_ID", f"is {pool!r}; give one such as eu-west-1_AbCdEf123")
    region = environment.text("COGNITO_REGION", match[1])
    if not _REGION.fullmatch(region):
        raise ConfigurationError("COGNITO_REGION", f"is {region!r}; give one such as eu-west-1")
    app = environment.required("COGNITO_APP_CLIENT_ID", "give the id of the app client that users sign in with")
    issuer = _issuer(
        "COGNITO_ISSUER", environment.text("COGNITO_ISSUER", f"https://cognito-idp.{region}.amazonaws.com/{pool}")
    )
    clients = (app, *_names(environment.text("COGNITO_SERVICE_CLIENT_ID", "")))
    return OpenIdSettings(
        issuer=issuer,
        client_ids=tuple(dict.fromkeys(clients)),
        audiences=(),
        claims=Claims.COGNITO,
        roles_claims=("cognito:groups",),
        algorithms=frozenset({"RS256"}),
        skew_s=_skew(environment),
        jwks_uri=f"{issuer}/.well-known/jwks.json",
    )


def is_protected(url: str) -> bool:
    """Whether what is read there can be believed: https, or this very machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _issuer(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = is_protected(url) and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        sound = False
    if not sound:
        given = "holds a password" if "@" in url else f"is {url!r}"
        remedy = "give the issuer's https URL, exactly as its tokens have it (http for this machine only)"
        raise ConfigurationError(name, f"{given}; {remedy}")
    return url


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for part in re.split(r"[,\s]+", text) if part))


def _skew(environment: Environment) -> float:
    return environment.seconds("OIDC_CLOCK_SKEW_SEC", SKEW_DEFAULT_S, minimum=0, maximum=SKEW_MAX_S)
