"""Where an installation answers, from what people call it."""

from __future__ import annotations

from urllib.parse import urlsplit

from kdcube.protocol.errors import InvalidInput

PREFIX = "/chatbot/api"
"""Every service answers under it, behind a proxy and directly."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def base_url(given: str) -> str:
    """The URL under which the API of ``https://chat.example.org`` is, given with the prefix or without.

    Raises InvalidInput.
    """
    parts = urlsplit(given if "://" in given else f"http://{given}")
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is no number
        valid = False
    if not valid or parts.username is not None:
        raise InvalidInput("url", f"{_without_secrets(given)} is no address such as https://chat.example.org")
    path = parts.path.rstrip("/").removesuffix(PREFIX).removesuffix("/chatbot")
    return f"{parts.scheme}://{parts.netloc}{path}{PREFIX}"


def is_local(url: str) -> bool:
    """On this machine: no proxy stands between."""
    return urlsplit(url).hostname in _LOOPBACK


def _without_secrets(given: str) -> str:
    return given if "@" not in given else "an address that holds a password"
