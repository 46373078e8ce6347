"""Reads JSON from the identity provider: within a time, within a size, and never where a redirect leads."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import httpx
import msgspec

from kdcube.breaker import Breaker
from kdcube.config.openid import is_protected
from kdcube.gateway.identity.kept import provider_away
from kdcube.protocol.errors import KDCubeError, StoreUnavailable

TIMEOUT_S = 3.0
MAX_BYTES = 512 * 1024

_NO_DOCUMENT = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class _Unreadable(KDCubeError):
    """The provider's answer is not what it should be."""


class Documents:
    """The provider's public documents."""

    def __init__(self, http: httpx.AsyncClient, breaker: Breaker, timeout_s: float = TIMEOUT_S) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self.breaker = breaker

    async def read(self, url: str, decoder: msgspec.json.Decoder[T]) -> T:
        """Raises Unavailable, whose cause says what was wrong."""
        try:
            with self.breaker.guarding():
                return await self._read(url, decoder)
        except StoreUnavailable as error:
            raise provider_away() from error

    async def _read(self, url: str, decoder: msgspec.json.Decoder[T]) -> T:
        try:
            if not is_protected(url):
                raise _Unreadable("its address is not https")
            with anyio.fail_after(self._timeout_s):
                return decoder.decode(await self._body(url))
        except (_Unreadable, httpx.HTTPError, TimeoutError, *_NO_DOCUMENT) as error:
            raise StoreUnavailable(self.breaker.dependency, str(error) or type(error).__name__) from error

    async def _body(self, url: str) -> bytes:
        async with self._http.stream("GET", url, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise _Unreadable(f"it answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _Unreadable(f"its answer has more than {MAX_BYTES} bytes")
            return bytes(body)


@asynccontextmanager
async def open_documents(timeout_s: float = TIMEOUT_S) -> AsyncGenerator[Documents]:
    """Closes its connections at the end."""
    limits = httpx.Limits(max_connections=4, max_keepalive_connections=1)
    async with httpx.AsyncClient(follow_redirects=False, timeout=timeout_s, limits=limits) as http:
        yield Documents(http, Breaker("identity_provider"), timeout_s)
