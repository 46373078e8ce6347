"""Secrets in files: of a variable that may hold one, ``NAME_FILE`` names the file that holds it instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdcube.protocol.errors import ConfigurationError

SECRET_NAMES = (
    *("REDIS_URL", "DATABASE_URL", "POSTGRES_PASSWORD", "KDCUBE_SESSION_SECRET", "OIDC_CLIENT_SECRET"),
    *("PROXYLOGIN_ENCRYPTION_KEYS", "GIT_HTTP_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS"),
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"),
)
"""All variables of which a ``NAME_FILE`` is read."""

SUFFIX = "_FILE"
MAX_BYTES = 65_536


def with_secret_files(variables: Mapping[str, str]) -> Mapping[str, str]:
    """``variables`` with what the files say in the place of their names, less one line end at the end.

    Raises ConfigurationError, without a word of what a file holds: both are given, the file cannot be read, it is
    empty, larger than 64 KB or not UTF-8.
    """
    named = {name: path for name in SECRET_NAMES if (path := variables.get(name + SUFFIX, "").strip())}
    if not named:
        return variables
    found = {name: value for name, value in variables.items() if name.removesuffix(SUFFIX) not in named}
    for name, path in named.items():
        if variables.get(name):
            raise ConfigurationError(name, f"is set, and {name}{SUFFIX} as well; remove one of them")
        found[name] = _read(name + SUFFIX, Path(path))
    return found


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise ConfigurationError(name, f"cannot read {path}: {error.strerror}; give the path of a file") from None
    except ValueError:
        raise ConfigurationError(name, f"{path} is not UTF-8") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(name, f"{path} is larger than {MAX_BYTES} bytes")
    value = text.removesuffix("\n").removesuffix("\r")
    if not value.strip():
        raise ConfigurationError(name, f"{path} is empty")
    return value
