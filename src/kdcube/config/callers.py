"""How callers are known, and what their pages may do, to every service that takes their requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import SecretStr

from kdcube.config.auth import AuthSettings, Cors, Network, read_session_secret, read_trusted_proxies
from kdcube.config.environment import Environment
from kdcube.config.logins import LoginSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerSettings:
    """The same for all services and replicas of an installation: who is known to one is known to all."""

    auth: AuthSettings
    logins: LoginSettings | None
    """Of proxylogin; None without it."""
    session_secret: SecretStr | None
    """Signs anonymous sessions. None: this process knows none of them."""
    cors: Cors
    trusted_proxies: tuple[Network, ...]
    """Whose X-Forwarded-For is believed."""

    @classmethod
    def read(cls, environment: Environment, *, opens_sessions: bool = True) -> Self:
        """``opens_sessions``: whether there must be a secret to sign them with. Raises ConfigurationError."""
        secret = opens_sessions or environment.optional("KDCUBE_SESSION_SECRET") is not None
        return cls(
            auth=AuthSettings.read(environment),
            logins=LoginSettings.read(environment),
            session_secret=read_session_secret(environment) if secret else None,
            cors=environment.document("CORS_CONFIG", Cors) or Cors(),
            trusted_proxies=read_trusted_proxies(environment),
        )
