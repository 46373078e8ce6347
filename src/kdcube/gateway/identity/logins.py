"""From the login cookie to a user. Every service does this by itself: PostgreSQL is the truth, Valkey spares the way.

The cookie is 256 random bits and means nothing elsewhere; the stores know only its hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.logins import LoginSettings
from kdcube.gateway.errors import Unauthorised, Unavailable
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.sealing import Keyring, Unsealable
from kdcube.postgres.audit import Audit
from kdcube.postgres.database import Database
from kdcube.postgres.logins import Logins, StoredLogin
from kdcube.protocol.errors import StoreUnavailable
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.logins import KEPT_MS, CachedEnd, LoginCache

_COOKIE = "kdcube_login"
_COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
UNCONFIRMED_RETRY_S = 10.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def login_cookie(*, secure: bool) -> str:
    """The cookie's name. Under ``__Host-`` no other host, not even a sibling, can plant one."""
    return f"__Host-{_COOKIE}" if secure else _COOKIE


def new_cookie() -> str:
    """A value for the cookie."""
    return secrets.token_urlsafe(32)


def hash_of(cookie: str) -> bytes:
    """Under which the stores know a cookie."""
    return hashlib.sha256(cookie.encode()).digest()


class _Claims(msgspec.Struct, frozen=True):
    user_id: str
    username: str | None
    email: str | None
    roles: tuple[str, ...]


class _Cached(msgspec.Struct, frozen=True, array_like=True):
    login_id: str
    claims: _Claims
    opened_ms: int
    idle_until_ms: int
    expires_ms: int
    confirmed_ms: int | None
    looked_up_ms: int


_CLAIMS = msgspec.msgpack.Decoder(_Claims)
_CACHED = msgspec.msgpack.Decoder(_Cached)
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Login:
    """A user who is signed in. It ends at ``expires_ms``, and at ``idle_until_ms`` unless it is used before."""

    login_id: str
    identity: Identity
    opened_ms: int
    idle_until_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class LoginOver:
    """There is no such login, or not any more. ``reason``: unknown, expired, idle, or as ``EndedBy``."""

    reason: str


Resolved: TypeAlias = Login | LoginOver
Scope: TypeAlias = tuple[str, str]
"""Tenant and project."""


_TOLD = {
    "expired": "You have been signed in for as long as that lasts.",
    "idle": "You were signed out, as you were away for long.",
    "signed_out": "You have signed out.",
    "provider": "The identity provider has signed you out.",
    "refused": "The identity provider did not confirm any more that you are signed in.",
    "replaced": "You have signed in anew in this browser.",
}


def login_over(over: LoginOver) -> Unauthorised:
    """What the user is told; nobody whose login has ended is taken for anonymous."""
    told = _TOLD.get(over.reason, "The sign-in of this browser is not known, or not any more.")
    return Unauthorised(f"{told} Sign in again at /auth/login, or sign out by POST /auth/logout.", error="login_over")


class LoginResolver:
    """Tells whose a login cookie is, in any service."""

    def __init__(
        self, logins: Logins, cache: LoginCache, keyring: Keyring, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._logins = logins
        self._cache = cache
        self._keyring = keyring
        self._clock = clock

    async def resolve(self, cookie: str) -> Resolved:
        """Notes, within a minute, that the login is used.

        Raises StoreUnavailable, and Unavailable when the identity provider has not confirmed it for too long.
        """
        if not _COOKIE_VALUE.fullmatch(cookie):
            return LoginOver("unknown")
        cookie_hash, now_ms = hash_of(cookie), self._now_ms()
        cached = await self._cached(cookie_hash)
        if isinstance(cached, LoginOver):
            return cached
        if cached is None or now_ms >= _until(cached):
            row = await self._logins.touch(cookie_hash, now_ms)
            if row is None:
                return await self._why(cookie_hash, now_ms)
            cached = self._opened(cookie_hash, row, now_ms)
            if cached is None:
                return LoginOver("unknown")
            await self._keep(cookie_hash, cached, now_ms)
        return _confirmed(cached, now_ms)

    async def look(self, cookie: str) -> Resolved:
        """As ``resolve``, straight from PostgreSQL, and no use of the login."""
        if not _COOKIE_VALUE.fullmatch(cookie):
            return LoginOver("unknown")
        cookie_hash, now_ms = hash_of(cookie), self._now_ms()
        row = await self._logins.get(cookie_hash)
        over = _over(row, now_ms)
        if over is not None or row is None:
            return over or LoginOver("unknown")
        known = self._opened(cookie_hash, row, now_ms)
        return LoginOver("unknown") if known is None else _login(known)

    async def _cached(self, cookie_hash: bytes) -> _Cached | LoginOver | None:
        try:
            found = await self._cache.get(cookie_hash)
            if isinstance(found, CachedEnd):
                return LoginOver(found.ended_by)
            if found is not None:
                return _CACHED.decode(self._keyring.unseal(found, "cache", cookie_hash.hex()))
        except StoreUnavailable as error:
            logger.info("login.cache_away", reason=str(error))
        except (Unsealable, msgspec.MsgspecError):
            logger.warning("login.cache_not_readable")
        return None

    async def _keep(self, cookie_hash: bytes, cached: _Cached, now_ms: int) -> None:
        sealed = self._keyring.seal(_ENCODER.encode(cached), "cache", cookie_hash.hex())
        try:
            await self._cache.fill(cookie_hash, sealed, _until(cached) - now_ms)
        except StoreUnavailable as error:
            logger.info("login.cache_away", reason=str(error))

    async def _why(self, cookie_hash: bytes, now_ms: int) -> LoginOver:
        return _over(await self._logins.get(cookie_hash), now_ms) or LoginOver("unknown")

    def _opened(self, cookie_hash: bytes, row: StoredLogin, now_ms: int) -> _Cached | None:
        try:
            claims = _CLAIMS.decode(unseal_claims(self._keyring, cookie_hash, row.claims))
        except (Unsealable, msgspec.MsgspecError):
            logger.error("login.not_readable", login_id=row.login_id, sealed_by=row.sealed_by)
            return None
        return _Cached(
            row.login_id, claims, row.opened_ms, row.used_ms + row.idle_ms, row.expires_ms, row.confirmed_ms, now_ms
        )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


@dataclass(frozen=True, slots=True)
class LoginCookies:
    """The logins of an installation: under which name, for pages of which site, and whose they are."""

    name: str
    site: str
    logins: Logins
    resolver: LoginResolver


def login_cookies(
    settings: LoginSettings,
    database: Database,
    audit: Audit,
    connection: Connection,
    keys: Keys,
    scope: tuple[str, str],
) -> LoginCookies:
    """For a service that only asks whose they are."""
    logins = Logins(database, audit, *scope)
    resolver = LoginResolver(logins, LoginCache(connection, keys), Keyring(settings.keys))
    return LoginCookies(login_cookie(secure=settings.secure), settings.public_url, logins, resolver)


def encode_claims(identity: Identity) -> bytes:
    """What a login keeps of its user."""
    return _ENCODER.encode(_Claims(identity.user_id, identity.username, identity.email, identity.roles))


def decode_claims(claims: bytes) -> Identity:
    """What ``encode_claims`` made."""
    return _identity(_CLAIMS.decode(claims))


def seal_claims(keyring: Keyring, cookie_hash: bytes, claims: bytes) -> bytes:
    return keyring.seal(claims, "logins.claims", cookie_hash.hex())


def unseal_claims(keyring: Keyring, cookie_hash: bytes, sealed: bytes) -> bytes:
    """Raises Unsealable."""
    return keyring.unseal(sealed, "logins.claims", cookie_hash.hex())


def _until(cached: _Cached) -> int:
    """When it has to be looked at again at the latest."""
    until_ms = min(cached.expires_ms, cached.idle_until_ms, cached.looked_up_ms + KEPT_MS)
    return until_ms if cached.confirmed_ms is None else min(until_ms, cached.confirmed_ms)


def _confirmed(cached: _Cached, now_ms: int) -> Login:
    if cached.confirmed_ms is not None and now_ms >= cached.confirmed_ms:
        raise Unavailable(
            "The identity provider could not be asked for too long whether you are still signed in; try again.",
            retry_after_s=UNCONFIRMED_RETRY_S,
            error="sign_in_unconfirmed",
        )
    return _login(cached)


def _login(cached: _Cached) -> Login:
    return Login(cached.login_id, _identity(cached.claims), cached.opened_ms, cached.idle_until_ms, cached.expires_ms)


def _identity(claims: _Claims) -> Identity:
    return Identity(claims.user_id, claims.username, claims.email, claims.roles)


def _over(row: StoredLogin | None, now_ms: int) -> LoginOver | None:
    if row is None:
        return LoginOver("unknown")
    if row.ended_by is not None:
        return LoginOver(row.ended_by)
    if now_ms >= row.expires_ms:
        return LoginOver("expired")
    return LoginOver("idle") if now_ms >= row.used_ms + row.idle_ms else None
