"""What every service must know to tell whose a login's cookie is."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from kdcube.config.environment import Environment
from kdcube.config.openid import is_protected
from kdcube.protocol.errors import ConfigurationError

KEYS = "PROXYLOGIN_ENCRYPTION_KEYS"
PUBLIC_URL = "PROXYLOGIN_PUBLIC_URL"
KEY_BYTES = 32

_REMEDY = "give keys from `openssl rand -base64 32`, separated by commas, the newest first, the same to all services"
_HEX = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSettings:
    """How logins are kept. ``LoginSettings.read`` gives None for an installation without them."""

    keys: tuple[bytes, ...] = field(repr=False)
    """Newest first: the first one seals, all open."""
    public_url: str
    """Where browsers reach proxylogin: scheme and authority, no path."""

    @property
    def secure(self) -> bool:
        """Whether browsers come by https; if not, only this machine is served."""
        return self.public_url.startswith("https:")

    @classmethod
    def read(cls, environment: Environment) -> Self | None:
        """Raises ConfigurationError."""
        keys = read_keys(environment)
        if not keys:
            return None
        default = environment.optional(PUBLIC_URL)
        if default is None:
            raise ConfigurationError(
                PUBLIC_URL, "is not set; give the URL of the site, such as https://chat.example.org"
            )
        return cls(keys=keys, public_url=check_site(PUBLIC_URL, default))


def read_keys(environment: Environment) -> tuple[bytes, ...]:
    """Of PROXYLOGIN_ENCRYPTION_KEYS; empty when it is not set. Raises ConfigurationError, without showing any."""
    given = environment.secret(KEYS)
    if given is None:
        return ()
    parts = [part for part in re.split(r"[,\s]+", given.get_secret_value()) if part]
    keys = tuple(_key(number, part) for number, part in enumerate(parts, 1))
    if not keys:
        raise ConfigurationError(KEYS, f"holds no key; {_REMEDY}")
    if len(set(keys)) < len(keys):
        raise ConfigurationError(KEYS, "holds the same key twice")
    return keys


def check_site(name: str, url: str) -> str:
    """``url`` as scheme and authority: https, or http on this machine only. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        sound = parts.hostname and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        sound, parts, port = False, urlsplit(""), ""
    host = parts.hostname or ""
    if not sound or parts.scheme not in ("https", "http") or not is_protected(url):
        raise ConfigurationError(
            name, f"is {url!r}; give https://host[:port] without a path, or http for this machine only"
        )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _key(number: int, text: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(KEYS, f"key {number} has not {KEY_BYTES} bytes in base64 or hex; {_REMEDY}")
    return key
