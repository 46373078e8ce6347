"""Where Valkey is: a URL, taken apart once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from kdcube.protocol.errors import ConfigurationError

_PORT = 6379
_SHAPE = (
    "give redis://[user:password@]host[:port][/db], rediss://…[?ssl_ca_certs=file] for TLS, "
    "or unix://[user:password@]/path[?db=n]"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. ``str()`` of it never shows credentials."""

    host: str = "127.0.0.1"
    port: int = _PORT
    tls: bool = False
    path: str | None = None
    """The Unix socket; host, port and tls then mean nothing."""
    username: str = "default"
    password: str | None = field(default=None, repr=False)
    db: int = 0
    ca_file: str | None = None
    """The certificates that the server's must descend from; None: those that this machine trusts."""

    def tls_context(self) -> ssl.SSLContext | None:
        """The server's certificate and name are always checked. None without TLS; raises ConfigurationError."""
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError among them
            reason = f"cannot read the certificates in {self.ca_file}: {error.strerror or error}"
            raise ConfigurationError("REDIS_URL", f"{reason}; ssl_ca_certs is to name a PEM file") from error

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


def parse_endpoint(url: str) -> Endpoint:
    """Raises ConfigurationError, without showing the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        return _endpoint(parts)
    except ValueError as error:
        raise ConfigurationError("REDIS_URL", f"not a Valkey or Redis URL; {_SHAPE}") from error


def _endpoint(parts: SplitResult) -> Endpoint:
    password = unquote(parts.password) if parts.password else None
    username = unquote(parts.username) if parts.username else "default"
    given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    db = given.pop("db", None)
    ca_file = given.pop("ssl_ca_certs", None) if parts.scheme == "rediss" else None
    if given:
        raise ConfigurationError("REDIS_URL", f"has the unknown parameter {min(given)!r}; {_SHAPE}")
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("no path")
        return Endpoint(path=unquote(parts.path), username=username, password=password, db=int(db or 0))
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("unknown scheme")
    return Endpoint(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or _PORT,
        tls=parts.scheme == "rediss",
        username=username,
        password=password,
        db=int(db or parts.path.strip("/") or 0),
        ca_file=ca_file,
    )
