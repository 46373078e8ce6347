"""API keys as requests present them: proven against what is stored, which is kept for a short while."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.breaker import Breaker
from kdcube.gateway.identity.authenticator import Authenticator, Identity
from kdcube.gateway.identity.key_text import looks_like_key, parse_key
from kdcube.gateway.identity.scopes import Scope
from kdcube.postgres.api_keys import StoredKey, StoredKeys
from kdcube.protocol.errors import StoreUnavailable
from kdcube.redis.revocations import Revocations

KEPT_S = 15.0
"""A revocation takes effect everywhere within this, also where its announcement was not heard."""
MAX_KEPT = 4096
NOTE_EVERY_S = 60.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    key: StoredKey | None
    until_s: float


class ApiKeys:
    """Proves API keys. What is looked up is kept for KEPT_S, also that there is no such key."""

    def __init__(
        self,
        stored: StoredKeys,
        revocations: Revocations,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stored = stored
        self._revocations = revocations
        self._clock = clock
        self._monotonic = monotonic
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._revoked = 0
        self._used: dict[str, int] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[ApiKeys]:
        """Hears of revocations and notes, now and then, when keys were used."""
        stop = asyncio.Event()
        noting = asyncio.create_task(self._note_until(stop), name="api-keys-used")
        with self._revocations.heard_by(self.forget):
            try:
                yield self
            finally:
                stop.set()
                await noting

    async def authenticate(self, token: str) -> Identity | None:
        """None for a key that is misspelt, unknown, revoked or expired. Raises StoreUnavailable."""
        text = parse_key(token)
        if text is None:
            return None
        key = await self._find(text.key_id)
        if key is None or not hmac.compare_digest(key.secret_hash, text.secret_hash):
            return None
        now_ms = int(self._clock() * 1000)
        if key.revoked_ms is not None or key.expires_ms <= now_ms:
            return None
        self._used[key.key_id] = now_ms
        return Identity(
            user_id=key.user_id,
            username=key.username,
            email=key.email,
            roles=key.roles,
            user_type=key.user_type,
            key_id=key.key_id,
            scopes=frozenset(Scope(scope) for scope in key.scopes),
        )

    def forget(self, key_id: str | None) -> None:
        """Looks a key up again the next time; with None all of them."""
        self._revoked += 1
        if key_id is None:
            self._known.clear()
        else:
            self._known.pop(key_id, None)

    async def note_used(self) -> None:
        """Writes when keys were used. What cannot be written now is written the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._stored.note_used(used)
        except StoreUnavailable as error:
            self._used = {**used, **self._used}
            logger.warning("api_key.use_not_noted", keys=len(used), reason=str(error))

    async def _find(self, key_id: str) -> StoredKey | None:
        known = self._known.get(key_id)
        if known is not None and self._monotonic() < known.until_s:
            return known.key
        began, revoked = self._monotonic(), self._revoked
        key = await self._stored.find(key_id)
        if revoked == self._revoked:  # else it may have been read before it was revoked
            self._known[key_id] = _Known(key, began + KEPT_S)
            self._known.move_to_end(key_id)
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        return key

    async def _note_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with asyncio.timeout(NOTE_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                pass
            await self.note_used()


class KeysFirst:
    """An Authenticator that takes API keys, and asks ``other`` about every other token."""

    def __init__(self, keys: ApiKeys, other: Authenticator) -> None:
        self._keys = keys
        self._other = other

    @property
    def breaker(self) -> Breaker | None:
        return self._other.breaker

    async def authenticate(self, token: str | None, id_token: str | None = None) -> Identity | None:
        if token is not None and looks_like_key(token):
            return None if id_token is not None else await self._keys.authenticate(token)
        return await self._other.authenticate(token, id_token)
