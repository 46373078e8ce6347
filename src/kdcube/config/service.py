"""What ingress and proc are both told: who they are, where the stores are, and what is configured for all."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlsplit

from kdcube.config.bundles import BundleRegistry, read_bundles
from kdcube.config.documents import read_json
from kdcube.config.environment import Environment
from kdcube.config.gateway import VARIABLE, GatewayConfig, read_gateway
from kdcube.config.sections import COMPONENTS, component_of
from kdcube.protocol.errors import ConfigurationError

INTERNAL_PORT = "KDCUBE_INTERNAL_PORT"

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Shared settings. URLs may hold passwords and stay out of the representation."""

    component: str
    host: str
    port: int
    internal_port: int | None
    """Where Prometheus reads what this process counted; None: nowhere."""
    instance_id: str
    """Tells this process from others in logs and heartbeats."""
    revision: str
    """Of the deployment; the processes of an old one can be told to claim nothing more."""
    home: Path
    """For sockets and other files of this machine."""
    log_level: LogLevel
    redis_url: str = field(repr=False)
    database_url: str = field(repr=False)
    storage_path: str
    """``file://…``, ``s3://…`` or a folder."""
    gateway: GatewayConfig
    """The environment's; another one that was stored wins."""
    gateway_document: Mapping[str, Any]
    """As the environment gives it."""
    gateway_from_environment: bool
    """The environment's wins over the stored one, once, at the start."""
    bundles: BundleRegistry
    """The environment's; what is registered goes before it."""
    bundles_from_environment: bool
    """The environment's bundles take the place of all that are registered, once, at the start of proc."""
    failpoints: str
    """For tests of crashes only; empty in every installation. See telemetry/failpoints.py."""

    @classmethod
    def read(cls, environment: Environment, *, component: str, port_name: str, port: int) -> Self:
        """Raises ConfigurationError."""
        _check_component(environment, component)
        port = environment.integer(port_name, port, minimum=1, maximum=65_535)
        home = environment.path("KDCUBE_HOME") or Path(".kdcube")
        return cls(
            component=component,
            host=environment.text("KDCUBE_HOST", "127.0.0.1"),
            port=port,
            internal_port=_internal_port(environment, port_name, port),
            instance_id=environment.text("INSTANCE_ID", f"{component}-{socket.gethostname()}-{port}"),
            revision=environment.text("KDCUBE_REVISION", "local"),
            home=home.absolute(),
            log_level=environment.choice("LOG_LEVEL", LogLevel, LogLevel.INFO),
            redis_url=environment.required("REDIS_URL", "give redis://[user:password@]host[:port][/db]"),
            database_url=read_database_url(environment),
            storage_path=environment.text("KDCUBE_STORAGE_PATH", str(home.absolute() / "storage")),
            gateway=(gateway := read_gateway(environment)),
            gateway_document=_document(environment, gateway),
            gateway_from_environment=environment.flag("GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP", False),
            bundles=read_bundles(environment),
            bundles_from_environment=environment.flag("BUNDLES_FORCE_ENV_ON_STARTUP", False),
            failpoints=environment.text("KDCUBE_FAILPOINTS", ""),
        )


def _internal_port(environment: Environment, port_name: str, port: int) -> int | None:
    given = environment.integer(INTERNAL_PORT, 0, minimum=0, maximum=65_535)
    if given == port:
        raise ConfigurationError(INTERNAL_PORT, f"is the public port of this service ({port_name}); choose another one")
    return given or None


def _check_component(environment: Environment, component: str) -> None:
    """Every service knows which one it is; GATEWAY_COMPONENT may only say the same."""
    given = environment.optional("GATEWAY_COMPONENT")
    if given is not None and component in COMPONENTS and component_of(given) != component:
        raise ConfigurationError("GATEWAY_COMPONENT", f"is {given!r}, but this is {component}; remove it or correct it")


def _document(environment: Environment, gateway: GatewayConfig) -> dict[str, Any]:
    given = environment.optional(VARIABLE)
    return {"tenant": gateway.tenant, "project": gateway.project} if given is None else read_json(given)


def read_database_url(environment: Environment) -> str:
    """DATABASE_URL, else one put together of POSTGRES_*."""
    url = environment.optional("DATABASE_URL")
    if url is not None:
        check_database_url(url)
        return url
    host = environment.optional("POSTGRES_HOST")
    if host is None:
        raise ConfigurationError("DATABASE_URL", "is not set; give it, or POSTGRES_HOST and its like")
    port = environment.integer("POSTGRES_PORT", 5432, minimum=1, maximum=65_535)
    user = quote(environment.text("POSTGRES_USER", "postgres"), safe="")
    password = environment.secret("POSTGRES_PASSWORD")
    sign_in = user if password is None else f"{user}:{quote(password.get_secret_value(), safe='')}"
    database = quote(environment.text("POSTGRES_DATABASE", "kdcube"), safe="")
    mode = _ssl_mode(environment)
    if host.startswith("/"):  # the folder of a Unix socket
        return f"postgresql://{sign_in}@/{database}?host={quote(host, safe='')}&port={port}"
    at = f"[{host}]" if ":" in host else host
    return f"postgresql://{sign_in}@{at}:{port}/{database}" + (f"?sslmode={mode}" if mode else "")


def check_database_url(url: str) -> None:
    """Raises ConfigurationError for what the driver would not tell well, without showing the URL: it may hold a
    password.
    """
    try:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        for address in parts.netloc.rpartition("@")[2].split(","):  # there may be several
            _ = urlsplit(f"//{address}").port
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("unknown scheme")
    except ValueError:
        raise ConfigurationError(
            "DATABASE_URL", "is no PostgreSQL URL; give postgresql://user:password@host:port/database"
        ) from None
    mode, authorities = given.get("sslmode"), given.get("sslrootcert")
    if mode is not None and mode not in _SSL_MODES:
        raise ConfigurationError("DATABASE_URL", f"has the sslmode {mode!r}; give one of {', '.join(_SSL_MODES)}")
    if authorities is not None and not Path(authorities).is_file():
        raise ConfigurationError("DATABASE_URL", f"has the sslrootcert {authorities}, which is no file")


def _ssl_mode(environment: Environment) -> str | None:
    """POSTGRES_SSL is one of libpq's modes, or true (require) or false (the driver's choice)."""
    value = environment.optional("POSTGRES_SSL")
    if value is None or value.lower() in _SSL_MODES:
        return value and value.lower()
    return "require" if environment.flag("POSTGRES_SSL", False) else None
