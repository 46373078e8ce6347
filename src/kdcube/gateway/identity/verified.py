"""Tokens of an OpenID provider. What was proven is kept until it expires, so that hot paths do not prove it again."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.breaker import Breaker
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.claims import Rules
from kdcube.gateway.identity.openid import TOKEN_MAX_CHARS, InvalidToken, OpenIdProvider, Verified

MAX_KEPT = 8192

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Proven:
    identity: Identity
    until_s: float
    fingerprint: str
    """Of the key: withdrawn, it takes with it what it signed."""


class OpenIdAuthenticator:
    """Proves access and id tokens. Tokens are kept as hashes only."""

    def __init__(
        self,
        provider: OpenIdProvider,
        rules: Rules,
        *,
        max_kept: int = MAX_KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._provider = provider
        self._rules = rules
        self._max_kept = max_kept
        self._clock = clock
        self._kept: OrderedDict[bytes, _Proven] = OrderedDict()

    @property
    def breaker(self) -> Breaker:
        """Of the provider."""
        return self._provider.breaker

    async def authenticate(self, token: str | None, id_token: str | None = None) -> Identity | None:
        """Roles are those of the access token; the id token completes name and address."""
        try:
            access = None if token is None else await self._proven(token, b"access", self._rules.of_access_token)
            person = None if id_token is None else await self._proven(id_token, b"id", self._rules.of_id_token)
            if access is None or person is None:
                return access or person
            if access.user_id != person.user_id:
                raise InvalidToken("the id token is of another user")
        except InvalidToken as error:
            logger.info("identity.token_refused", reason=str(error))
            return None
        return replace(access, username=person.username or access.username, email=person.email or access.email)

    async def _proven(self, token: str, kind: bytes, judge: Callable[[Verified], Identity]) -> Identity:
        if len(token) > TOKEN_MAX_CHARS or not token.isascii():
            raise InvalidToken("it is no signed token")
        digest = hashlib.sha256(kind + token.encode()).digest()
        known = self._kept.get(digest)
        if known is not None:
            if self._clock() < known.until_s and self._provider.keys.holds(known.fingerprint):
                self._kept.move_to_end(digest)
                return known.identity
            del self._kept[digest]
        verified = await self._provider.verify(token)
        identity = judge(verified)
        self._kept[digest] = _Proven(identity, verified.expires_s, verified.fingerprint)
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return identity
