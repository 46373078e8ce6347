"""How callers are told apart, by every service that serves people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from kdcube.config.environment import Environment, Whole
from kdcube.config.openid import OpenIdSettings, read_cognito, read_oidc
from kdcube.protocol.errors import ConfigurationError

Network: TypeAlias = IPv4Network | IPv6Network

SESSION_SECRET_MIN_CHARS = 32


class AuthProvider(StrEnum):
    """Where identities come from. ``none``: everybody is anonymous."""

    SIMPLE = "simple"
    OIDC = "oidc"
    COGNITO = "cognito"
    NONE = "none"


_READ_OPENID = {AuthProvider.OIDC: read_oidc, AuthProvider.COGNITO: read_cognito}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """How callers are told apart."""

    provider: AuthProvider
    idp_db_path: Path | None
    """For ``simple``: a JSON file ``{token: {sub, username, email, roles[]}}``. None: no token is known."""
    openid: OpenIdSettings | None
    """For ``oidc`` and ``cognito``."""
    anonymous: bool
    """Whether callers without a token are served."""
    id_token_header: str
    token_cookie: str
    id_token_cookie: str

    @classmethod
    def read(cls, environment: Environment) -> Self:
        idp_db_path = environment.path("IDP_DB_PATH")
        default = AuthProvider.NONE if idp_db_path is None else AuthProvider.SIMPLE
        provider = environment.choice("AUTH_PROVIDER", AuthProvider, default)
        read_openid = _READ_OPENID.get(provider)
        return cls(
            provider=provider,
            idp_db_path=idp_db_path,
            openid=read_openid and read_openid(environment),
            anonymous=environment.flag("KDCUBE_ANONYMOUS", True),
            id_token_header=environment.text("ID_TOKEN_HEADER_NAME", "X-ID-Token"),
            token_cookie=environment.text("AUTH_TOKEN_COOKIE_NAME", "__Secure-LATC"),
            id_token_cookie=environment.text("ID_TOKEN_COOKIE_NAME", "__Secure-LITC"),
        )


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=str | tuple[str, ...]
    ),
]


class Cors(BaseModel):
    """CORS_CONFIG. A single name may stand for a list of one; ``*`` is any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_origins: Names = ()
    allow_origin_regex: str | None = None
    allow_credentials: bool = False
    allow_methods: Names = ("GET", "POST", "PUT", "PATCH", "DELETE")
    allow_headers: Names = ("*",)
    expose_headers: Names = ()
    max_age: Whole = Field(default=600, ge=0, le=86_400)

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.allow_credentials and "*" in self.allow_origins:
            raise ValueError("allow_origins '*' with allow_credentials lets any site act as the user; name the origins")
        return self


def read_trusted_proxies(environment: Environment) -> tuple[Network, ...]:
    """Whose X-Forwarded-For is believed. Raises ConfigurationError."""
    given = environment.text("KDCUBE_TRUSTED_PROXIES", "")
    try:
        return tuple(ip_network(part.strip()) for part in given.split(",") if part.strip())
    except ValueError:
        raise ConfigurationError(
            "KDCUBE_TRUSTED_PROXIES", f"is {given!r}; give networks separated by commas, such as 10.0.0.0/16"
        ) from None


def read_session_secret(environment: Environment) -> SecretStr:
    """What signs sessions. Raises ConfigurationError."""
    secret = environment.secret("KDCUBE_SESSION_SECRET")
    remedy = "give a random one, such as from `openssl rand -hex 32`, the same to all replicas"
    if secret is None:
        raise ConfigurationError("KDCUBE_SESSION_SECRET", f"is not set; {remedy}")
    if len(secret) < SESSION_SECRET_MIN_CHARS:
        raise ConfigurationError(
            "KDCUBE_SESSION_SECRET", f"is shorter than {SESSION_SECRET_MIN_CHARS} characters; {remedy}"
        )
    return secret
