"""How callers are known, and how people sign in."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from kdcube.config.auth import Cors
from kdcube.config.documents import shown
from kdcube.config.environment import Whole
from kdcube.config.logins import check_site
from kdcube.config.openid import ALGORITHMS, SKEW_MAX_S, is_protected
from kdcube.deploy.descriptor.parts import Flag, Part, Region, like
from kdcube.protocol.errors import ConfigurationError

_HOUR_S = 3_600
_DAY_S = 86_400


def _site(text: str) -> str:
    try:
        return check_site("it", text)
    except ConfigurationError:
        given = "holds a password" if "@" in text else f"is {shown(text)}"
        raise ValueError(f"{given}; give https://HOST without a path, or http for this machine only") from None


def _issuer(text: str) -> str:
    if "@" in text or not is_protected(text) or re.search(r"[?#\s]", text):
        raise ValueError("is no issuer; give the provider's https URL, exactly as its tokens have it")
    return text


Site = Annotated[str, AfterValidator(_site)]
Issuer = Annotated[str, AfterValidator(_issuer)]
Word = Annotated[str, like(r"^[^\s,]{1,256}$", "kdcube")]
HeaderName = Annotated[str, like(r"^[A-Za-z0-9_-]{1,64}$", "X-ID-Token")]
Algorithm = Annotated[str, like(f"^({'|'.join(ALGORITHMS)})$", "RS256")]


class Callers(Part):
    """What holds with every provider."""

    anonymous: Flag = True
    """Whether callers without a token are served."""
    id_token_header: HeaderName = "X-ID-Token"  # noqa: S105
    """Header of the id token."""
    token_cookie: HeaderName = "__Secure-LATC"  # noqa: S105
    """Cookie of the token."""
    id_token_cookie: HeaderName = "__Secure-LITC"  # noqa: S105
    """Cookie of the id token."""
    cors: Cors = Cors()
    """Which other sites may call, as CORS_CONFIG has it."""


class Login(Part):
    """How people sign in through ``services.proxylogin``."""

    public_url: Site
    """Where browsers reach it: scheme and host."""
    return_url: Site | None = None
    """The site that people come back to; without it ``public_url``."""
    scopes: Annotated[str, like(r"^(\S+ )*openid( \S+)*$", "openid profile")] = "openid profile email"
    """What they are asked to allow."""
    lifetime_s: Annotated[Whole, Field(ge=300, le=30 * _DAY_S)] = _DAY_S
    """How long a login lasts at all."""
    idle_s: Annotated[Whole, Field(ge=300, le=7 * _DAY_S)] = 8 * _HOUR_S
    """How long it lasts unused."""
    grace_s: Annotated[Whole, Field(ge=0, le=_DAY_S)] = 900
    """How long the provider's last word counts while it cannot be asked."""


class NoProvider(Callers):
    """Everybody is anonymous."""

    provider: Literal["none"]


class Tokens(Callers):
    """Tokens in a file, which is ``secrets.tokens``: ``{token: {sub, username, email, roles[]}}``."""

    provider: Literal["simple"]


class Oidc(Callers):
    """Any OpenID provider. The secret of its client is ``secrets.oidc_client_secret``."""

    provider: Literal["oidc"]
    issuer: Issuer
    """Exactly as its tokens name it."""
    client_ids: Annotated[tuple[Word, ...], Field(min_length=1, max_length=32)]
    """Clients that id tokens may be for; the first signs people in."""
    audiences: Annotated[tuple[Word, ...], Field(max_length=32)] = ()
    """What access tokens may be for; none: ``client_ids``."""
    roles_claims: Annotated[tuple[Word, ...], Field(min_length=1, max_length=32)] = ("roles",)
    """Claims that hold roles, as paths with dots."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1, max_length=9)] = ALGORITHMS
    """Signatures that are believed."""
    clock_skew_s: Annotated[Whole, Field(ge=0, le=int(SKEW_MAX_S))] = 30
    """How far its clock may be off."""
    login: Login | None = None
    """Required for ``services.proxylogin``."""


class Cognito(Callers):
    """A user pool of Amazon Cognito."""

    provider: Literal["cognito"]
    user_pool: Annotated[str, like(r"^[\w-]+_[0-9A-Za-z]+$", "eu-west-1_AbCdEf123")]
    """Its id, such as eu-west-1_AbCdEf123."""
    app_client: Word
    """The app client that people sign in with."""
    service_clients: Annotated[tuple[Word, ...], Field(max_length=32)] = ()
    """Other clients whose tokens are believed."""
    region: Region | None = None
    """Of the pool; without it, the one in its id."""
    issuer: Issuer | None = None
    """Where it is not Amazon's."""
    clock_skew_s: Annotated[Whole, Field(ge=0, le=int(SKEW_MAX_S))] = 30
    """How far its clock may be off."""
    login: Login | None = None
    """Required for ``services.proxylogin``."""


Auth: TypeAlias = Annotated[NoProvider | Tokens | Oidc | Cognito, Field(discriminator="provider")]
