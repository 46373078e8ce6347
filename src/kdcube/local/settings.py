"""What the laptop's commands are told by the environment, and which of it the services get to see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from kdcube.config.auth import AuthProvider
from kdcube.config.bundles import BundleRegistry, read_bundles
from kdcube.config.environment import Environment
from kdcube.config.environments import ENVIRONMENT_VARIABLES, EnvironmentSettings
from kdcube.config.gateway import GatewayConfig, read_gateway
from kdcube.config.git import GIT_VARIABLES
from kdcube.config.secrets import AWS_VARIABLES, SECRET_VARIABLES
from kdcube.config.tracing import TRACING_VARIABLES
from kdcube.config.variables import READERS
from kdcube.local.docs import GRANTED

_FIRST_PORT = 8010
_PORTS = 100
_STOP_S = 30.0  # less than in a cluster, as somebody waits at a terminal

_FOR_ALL = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("GATEWAY_CONFIG_JSON", "GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP", "KDCUBE_STORAGE_PATH", "LOG_LEVEL"),
    *("KDCUBE_REVISION", "KDCUBE_FAILPOINTS", *TRACING_VARIABLES),
)
_FOR_INGRESS = ("KDCUBE_KEEPALIVE_SEC",)
_FOR_CALLERS = (
    *("AUTH_PROVIDER", "IDP_DB_PATH", "KDCUBE_ANONYMOUS", "CORS_CONFIG"),
    *("ID_TOKEN_HEADER_NAME", "AUTH_TOKEN_COOKIE_NAME", "ID_TOKEN_COOKIE_NAME"),
    *("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_AUDIENCE", "OIDC_ROLES_CLAIM", "OIDC_ALGORITHMS", "OIDC_CLOCK_SKEW_SEC"),
    *("COGNITO_REGION", "COGNITO_USER_POOL_ID", "COGNITO_APP_CLIENT_ID", "COGNITO_SERVICE_CLIENT_ID", "COGNITO_ISSUER"),
)
_SIGNING_IN = (AuthProvider.OIDC, AuthProvider.COGNITO)
_FOR_SIGNING_IN = ("PROXYLOGIN_ENCRYPTION_KEYS", "PROXYLOGIN_PUBLIC_URL")
"""What all services must know of it."""
_FOR_PROXYLOGIN = (
    *("OIDC_CLIENT_SECRET", "OIDC_SCOPES", "PROXYLOGIN_RETURN_URL", "PROXYLOGIN_LIFETIME_SEC", "PROXYLOGIN_IDLE_SEC"),
    "PROXYLOGIN_GRACE_SEC",
)
_FOR_SECRETS = (*SECRET_VARIABLES, *AWS_VARIABLES)
_FOR_PROC = (
    *("KDCUBE_DEBUG_BUNDLES", "CHAT_TASK_TIMEOUT_SEC", "KDCUBE_SLOTS", "HEARTBEAT_INTERVAL"),
    *("BUNDLES_FORCE_ENV_ON_STARTUP", *GIT_VARIABLES, *ENVIRONMENT_VARIABLES, *_FOR_SECRETS, *GRANTED),
)


_FOR_METRICS = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *(name for name, readers in READERS.items() if "metrics" in readers),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """What checking a bundle is told, and no more: it needs no installation."""

    home: Path
    """Absolute; environments that are built for it are there for ``kdcube up``."""
    environments: EnvironmentSettings

    @classmethod
    def read(cls, environment: Environment) -> Self:
        """Raises ConfigurationError."""
        return cls(home=_home(environment), environments=EnvironmentSettings.read(environment))


class ProxyTls(StrEnum):
    """KDCUBE_PROXY_TLS: how the proxy of this machine proves who it is."""

    NONE = "none"
    SELF_SIGNED = "self-signed"
    GIVEN = "given"
    """By KDCUBE_PROXY_CERTIFICATE and KDCUBE_PROXY_KEY, files in PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """``load(LocalSettings)``. The services' variables are those that they document, and no others."""

    home: Path
    """Absolute."""
    first_port: int
    """Ingress listens on it and the next nine, proc on +10 to +19, proxylogin on +20, the proxy on +70 (and +71),
    the metrics service on +80, the stores on +90.
    """
    gateway: GatewayConfig
    proxy_tls: ProxyTls
    proxy_certificate: Path | None
    proxy_key: Path | None
    bundles: BundleRegistry
    """The user's own AGENTIC_BUNDLES_JSON; empty without it."""
    environments: EnvironmentSettings
    """How the packages of bundles are installed, also to check them."""
    ingress_stop_s: float
    proc_stop_s: float
    """How long a service may drain."""
    ingress_variables: Mapping[str, str] = field(repr=False)
    proxylogin_stop_s: float
    proxylogin_variables: Mapping[str, str] = field(repr=False)
    proc_variables: Mapping[str, str] = field(repr=False)
    """With the secrets that ``bundles`` grants."""
    metrics_variables: Mapping[str, str] = field(repr=False)

    @property
    def signs_in(self) -> bool:
        """Whether people sign in at an OpenID provider through proxylogin."""
        return self.proxylogin_variables.get("AUTH_PROVIDER", "").strip().lower() in _SIGNING_IN

    @classmethod
    def read(cls, environment: Environment) -> Self:
        """Raises ConfigurationError, also for what only the services read but the user should hear of at once."""
        bundles = read_bundles(environment)
        return cls(
            home=_home(environment),
            first_port=environment.integer("KDCUBE_PORT", _FIRST_PORT, minimum=1024, maximum=65_536 - _PORTS),
            gateway=read_gateway(environment),
            proxy_tls=environment.choice("KDCUBE_PROXY_TLS", ProxyTls, ProxyTls.NONE),
            proxy_certificate=environment.path("KDCUBE_PROXY_CERTIFICATE"),
            proxy_key=environment.path("KDCUBE_PROXY_KEY"),
            bundles=bundles,
            environments=EnvironmentSettings.read(environment),
            ingress_stop_s=environment.seconds("INGRESS_CONTAINER_STOP_TIMEOUT_SEC", _STOP_S, minimum=1, maximum=3_600),
            proc_stop_s=environment.seconds("PROC_CONTAINER_STOP_TIMEOUT_SEC", _STOP_S, minimum=1, maximum=86_400),
            ingress_variables=_chosen(
                environment,
                (*_FOR_ALL, *_FOR_CALLERS, *_FOR_INGRESS, *_FOR_SIGNING_IN, *_FOR_SECRETS, *bundles.webhook_variables),
            ),
            proxylogin_stop_s=environment.seconds("PROXYLOGIN_STOP_TIMEOUT_SEC", _STOP_S, minimum=1, maximum=3_600),
            proxylogin_variables=_chosen(environment, (*_FOR_ALL, *_FOR_CALLERS, *_FOR_SIGNING_IN, *_FOR_PROXYLOGIN)),
            proc_variables=_chosen(
                environment, (*_FOR_ALL, *_FOR_CALLERS, *_FOR_SIGNING_IN, *_FOR_PROC, *bundles.secret_variables)
            ),
            metrics_variables=_chosen(environment, _FOR_METRICS),
        )


def _home(environment: Environment) -> Path:
    return (environment.path("KDCUBE_HOME") or Path(".kdcube")).absolute()


def _chosen(environment: Environment, names: Iterable[str]) -> dict[str, str]:
    values = {name: environment.secret(name) for name in names}
    return {name: value.get_secret_value() for name, value in values.items() if value is not None}
