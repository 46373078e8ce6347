"""Questions to a service over HTTP: is it there, is it ready, what does it run."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

_EXCERPT_CHARS = 300


async def http_missing(url: str) -> str | None:
    """What keeps the service at ``url`` from being ready, in a few words; None when it is."""
    answer = await _get(url, "/ready")
    if answer is None:
        return "it does not answer"
    status, body = answer
    return None if status == 200 else f"/ready says {status} {body.decode(errors='replace')[:_EXCERPT_CHARS]}"


async def http_facts(url: str) -> dict[str, Any] | None:
    """What the service says of itself under /health; None when it does not answer."""
    answer = await _get(url, "/health")
    if answer is None or answer[0] != 200:
        return None
    try:
        facts = msgspec.json.decode(answer[1])
    except msgspec.DecodeError:
        return {}
    return cast("dict[str, Any]", facts) if isinstance(facts, dict) else {}


async def _get(url: str, path: str, timeout_s: float = 2.0) -> tuple[int, bytes] | None:
    return await asyncio.to_thread(_get_blocking, url, path, timeout_s)


def _get_blocking(url: str, path: str, timeout_s: float) -> tuple[int, bytes] | None:
    parts = urlsplit(url)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=timeout_s, context=_whoever_it_is())
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _whoever_it_is() -> ssl.SSLContext:
    """The proxy of this machine may have signed for itself; it is asked whether it lives, and told nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
