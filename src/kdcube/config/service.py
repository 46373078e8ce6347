"""What ingress and proc are both told: who they are, where the stores are, and what is configured for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlsplit

from kdcube.config.bundles import BundleRegistry, read_bundles
from kdcube.config.documents import read_json
from kdcube.config.environment import Environment
from kdcube.config.gateway import VARIABLE, GatewayConfig
from kdcube.config.process import ProcessSettings
from kdcube.config.tracing import TracingSettings
from kdcube.protocol.errors import ConfigurationError

INTERNAL_PORT = "KDCUBE_INTERNAL_PORT"

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings(ProcessSettings):
    """Shared settings. URLs may hold passwords and stay out of the representation."""

    internal_port: int | None
    """Where Prometheus reads what this process counted; None: nowhere."""
    home: Path
    """For sockets and other files of this machine."""
    database_url: str = field(repr=False)
    storage_path: str
    """``file://…``, ``s3://…`` or a folder."""
    gateway_document: Mapping[str, Any]
    """As the environment gives it."""
    gateway_from_environment: bool
    """The environment's wins over the stored one, once, at the start."""
    bundles: BundleRegistry
    """The environment's; what is registered goes before it."""
    bundles_from_environment: bool
    """The environment's bundles take the place of all that are registered, once, at the start of proc."""
    tracing: TracingSettings | None
    """None: no spans are recorded."""

    @classmethod
    def read(cls, environment: Environment, *, component: str, port_name: str, port: int) -> Self:
        """Raises ConfigurationError."""
        process = ProcessSettings.read(environment, component=component, port_name=port_name, port=port)
        home = environment.path("KDCUBE_HOME") or Path(".kdcube")
        return cls(
            **process.members(),
            internal_port=_internal_port(environment, port_name, process.port),
            home=home.absolute(),
            database_url=read_database_url(environment),
            storage_path=environment.text("KDCUBE_STORAGE_PATH", str(home.absolute() / "storage")),
            gateway_document=_document(environment, process.gateway),
            gateway_from_environment=environment.flag("GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP", False),
            bundles=read_bundles(environment),
            bundles_from_environment=environment.flag("BUNDLES_FORCE_ENV_ON_STARTUP", False),
            tracing=TracingSettings.read(environment),
        )


def _internal_port(environment: Environment, port_name: str, port: int) -> int | None:
    given = environment.integer(INTERNAL_PORT, 0, minimum=0, maximum=65_535)
    if given == port:
        raise ConfigurationError(INTERNAL_PORT, f"is the public port of this service ({port_name}); choose another one")
    return given or None


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
