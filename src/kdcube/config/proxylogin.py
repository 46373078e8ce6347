"""What proxylogin is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import SecretStr

from kdcube.config.auth import AuthSettings, Network, read_trusted_proxies
from kdcube.config.environment import Environment
from kdcube.config.logins import KEYS, LoginSettings, check_site
from kdcube.config.openid import OpenIdSettings
from kdcube.config.service import ServiceSettings
from kdcube.protocol.errors import ConfigurationError

CALLBACK_PATH = "/auth/callback"
_HOUR_S = 3_600
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLoginSettings:
    """All of proxylogin. ``load(ProxyLoginSettings)``."""

    service: ServiceSettings
    openid: OpenIdSettings
    client_secret: SecretStr | None
    """None for a public client, which PKCE alone protects."""
    scopes: str
    logins: LoginSettings
    return_url: str
    """The site that users come back to: scheme and authority. Other than the public URL only without a proxy."""
    idle_s: float
    """How long a login lasts unused."""
    lifetime_s: float
    """How long it lasts at all."""
    grace_s: float
    """How long the provider's last word counts while it cannot be asked."""
    trusted_proxies: tuple[Network, ...]
    stop_timeout_s: float

    @property
    def callback_url(self) -> str:
        """As it is to be registered at the provider."""
        return self.logins.public_url + CALLBACK_PATH

    @property
    def signed_out_url(self) -> str:
        """Where the provider sends a browser after signing out; to be registered there as well."""
        return self.return_url + "/"

    @classmethod
    def read(cls, environment: Environment) -> Self:
        """Raises ConfigurationError."""
        auth = AuthSettings.read(environment)
        if auth.openid is None:
            raise ConfigurationError(
                "AUTH_PROVIDER", "proxylogin signs people in at an OpenID provider; give oidc or cognito"
            )
        logins = LoginSettings.read(environment)
        if logins is None:
            raise ConfigurationError(
                KEYS, "is not set; give one or several keys from `openssl rand -base64 32`, the same to all services"
            )
        scopes = environment.text("OIDC_SCOPES", "openid profile email")
        if "openid" not in scopes.split():
            raise ConfigurationError("OIDC_SCOPES", f"is {scopes!r}; it must have openid among others")
        lifetime_s = environment.seconds("PROXYLOGIN_LIFETIME_SEC", _DAY_S, minimum=300, maximum=30 * _DAY_S)
        idle_s = environment.seconds(
            "PROXYLOGIN_IDLE_SEC", min(8 * _HOUR_S, lifetime_s), minimum=300, maximum=7 * _DAY_S
        )
        if idle_s > lifetime_s:
            raise ConfigurationError(
                "PROXYLOGIN_IDLE_SEC", f"is {idle_s:g}; give at most PROXYLOGIN_LIFETIME_SEC, which is {lifetime_s:g}"
            )
        return cls(
            service=ServiceSettings.read(environment, component="proxylogin", port_name="PROXYLOGIN_PORT", port=8030),
            openid=auth.openid,
            client_secret=environment.secret("OIDC_CLIENT_SECRET"),
            scopes=scopes,
            logins=logins,
            return_url=check_site(
                "PROXYLOGIN_RETURN_URL", environment.text("PROXYLOGIN_RETURN_URL", logins.public_url)
            ),
            idle_s=idle_s,
            lifetime_s=lifetime_s,
            grace_s=environment.seconds("PROXYLOGIN_GRACE_SEC", 900, minimum=0, maximum=_DAY_S),
            trusted_proxies=read_trusted_proxies(environment),
            stop_timeout_s=environment.seconds("PROXYLOGIN_STOP_TIMEOUT_SEC", 30.0, minimum=1, maximum=3_600),
        )
