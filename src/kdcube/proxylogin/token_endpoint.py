"""Questions to the provider's token endpoint, and to the one that revokes: bounded, and behind a breaker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import quote

import anyio
import httpx
from pydantic import SecretStr

from kdcube.breaker import Breaker
from kdcube.gateway.errors import Unavailable
from kdcube.gateway.identity.kept import provider_away
from kdcube.protocol.errors import StoreUnavailable

TIMEOUT_S = 10.0
"""Of one question."""
REVOKE_TIMEOUT_S = 3.0
"""A user who signs out is waiting."""
MAX_BYTES = 256 * 1024
RETRY_MIN_S = 1.0


class Reply(NamedTuple):
    status: int
    body: bytes


class TokenEndpoint:
    """Asks as one client. While the provider fails, whoever asks is refused at once instead of waiting in a pile."""

    def __init__(
        self, http: httpx.AsyncClient, client_id: str, client_secret: SecretStr | None, breaker: Breaker
    ) -> None:
        self._http = http
        self._client_id = client_id
        self._client_secret = client_secret
        self.breaker = breaker

    def check(self) -> None:
        """Raises Unavailable when a question would be refused now."""
        try:
            self.breaker.check()
        except StoreUnavailable as error:
            raise self._away() from error

    async def ask(self, url: str, form: Mapping[str, str], methods: tuple[str, ...]) -> Reply:
        """``methods``: how clients may prove who they are there. Raises Unavailable; an answer below 500 is one."""
        try:
            with self.breaker.guarding():
                reply = await self._post(url, form, methods, TIMEOUT_S)
                if reply.status >= 500:
                    raise StoreUnavailable(self.breaker.dependency, f"it answers {reply.status}")
                return reply
        except StoreUnavailable as error:
            raise self._away() from error

    async def revoke(self, url: str, token: str, methods: tuple[str, ...]) -> None:
        """Tells that a refresh token is not needed any more (RFC 7009). Raises Unavailable.

        That this fails says nothing of the token endpoint, so the breaker is asked and not told.
        """
        self.check()
        try:
            await self._post(url, {"token": token, "token_type_hint": "refresh_token"}, methods, REVOKE_TIMEOUT_S)
        except StoreUnavailable as error:
            raise self._away() from error

    async def _post(self, url: str, form: Mapping[str, str], methods: tuple[str, ...], timeout_s: float) -> Reply:
        data = {**form, "client_id": self._client_id}
        auth = None
        if self._client_secret is not None:
            secret = self._client_secret.get_secret_value()
            if "client_secret_basic" in methods or "client_secret_post" not in methods:
                auth = httpx.BasicAuth(quote(self._client_id, safe=""), quote(secret, safe=""))
            else:
                data["client_secret"] = secret
        headers = {"Accept": "application/json"}
        try:
            with anyio.fail_after(timeout_s):
                async with self._http.stream("POST", url, data=data, auth=auth, headers=headers) as response:
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BYTES:
                            raise self._failed(f"its answer has more than {MAX_BYTES} bytes")
                    return Reply(response.status_code, bytes(body))
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._failed(str(error) or type(error).__name__) from error

    def _failed(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(self.breaker.dependency, reason)

    def _away(self) -> Unavailable:
        return provider_away(max(RETRY_MIN_S, self.breaker.retry_after_s))


@asynccontextmanager
async def open_token_endpoint(client_id: str, client_secret: SecretStr | None) -> AsyncGenerator[TokenEndpoint]:
    """Follows no redirects. Closes its connections at the end."""
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=4)
    async with httpx.AsyncClient(follow_redirects=False, timeout=TIMEOUT_S, limits=limits) as http:
        yield TokenEndpoint(http, client_id, client_secret, Breaker("identity_provider_tokens"))
