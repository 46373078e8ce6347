"""Where Valkey is: a URL, taken apart once."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from kdcube.protocol.errors import ConfigurationError

_PORT = 6379
_SHAPE = "give redis://[user:password@]host[:port][/db], rediss://… for TLS, or unix:///path[?db=n]"


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
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("no path")
        db = int(parse_qs(parts.query).get("db", ["0"])[0])
        return Endpoint(path=unquote(parts.path), username=username, password=password, db=db)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("unknown scheme")
    return Endpoint(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or _PORT,
        tls=parts.scheme == "rediss",
        username=username,
        password=password,
        db=int(parts.path.strip("/") or 0),
    )
