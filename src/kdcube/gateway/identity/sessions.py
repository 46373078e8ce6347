"""Session ids that prove themselves: nothing is stored, so any replica can check them and losing a store ends none.

An anonymous session id is the credential of its anonymous user: ``a1.<issued>.<random>.<mac>``. It is what the session
cookie holds. The session id of a signed-in user, ``u1.<random>.<mac>``, proves only that it was made for that user.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

ANONYMOUS_MAX_AGE_S = 90 * 86_400
ANONYMOUS_RENEW_S = 7 * 86_400
"""A session older than that is issued anew when its owner comes by, so that a regular visitor stays the same user."""

_ANONYMOUS = re.compile(r"a1\.([0-9a-f]{1,12})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{32})")
_SIGNED_IN = re.compile(r"u1\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{32})")
_CLOCK_SKEW_S = 300
_PROVEN_KEPT = 4096
"""Sessions that are not proven anew at each request (20 us)."""


@dataclass(frozen=True, slots=True)
class AnonymousSession:
    """A proven anonymous identity."""

    user_id: str
    session_id: str
    issued_s: int


class Sessions:
    """Issues and checks session ids under one secret, which all replicas of a tenant and project share."""

    def __init__(self, secret: str, tenant: str, project: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(secret.encode(), f"session\x1f{tenant}\x1f{project}".encode(), "sha256")
        self._clock = clock
        self._proven = lru_cache(_PROVEN_KEPT)(self._prove)

    def open_anonymous(self) -> AnonymousSession:
        """A new anonymous user."""
        return self._anonymous(_text(secrets.token_bytes(16)))

    def renewed(self, session: AnonymousSession) -> AnonymousSession:
        """The same user under a session id issued now."""
        return self._anonymous(session.session_id.split(".")[2])

    def due(self, session: AnonymousSession) -> bool:
        """Whether it is time to issue the session anew."""
        return self._clock() - session.issued_s > ANONYMOUS_RENEW_S

    def anonymous(self, session_id: str) -> AnonymousSession | None:
        """Who presents ``session_id``; None when it is malformed, forged or expired."""
        if not _ANONYMOUS.fullmatch(session_id):  # keeps long ones from being remembered
            return None
        session = self._proven(session_id)
        if session is None or not -_CLOCK_SKEW_S <= self._clock() - session.issued_s <= ANONYMOUS_MAX_AGE_S:
            return None
        return session

    def of_user(self, user_id: str) -> str:
        """The session id of a signed-in user who brings none. Always the same: a new one would start limits anew."""
        random = _text(hmac.digest(self._key, f"random\x1f{user_id}".encode(), "sha256")[:16])
        return f"u1.{random}.{self._mac('u1', random, user_id)}"

    def belongs(self, session_id: str, user_id: str) -> bool:
        """Whether ``session_id`` was made for this signed-in user."""
        match = _SIGNED_IN.fullmatch(session_id)
        return match is not None and hmac.compare_digest(match[2], self._mac("u1", match[1], user_id))

    def _prove(self, session_id: str) -> AnonymousSession | None:
        _, issued, random, mac = session_id.split(".")
        user_id = _anonymous_user(random)
        if not hmac.compare_digest(mac, self._mac("a1", issued, random, user_id)):
            return None
        return AnonymousSession(user_id, session_id, int(issued, 16))

    def _anonymous(self, random: str) -> AnonymousSession:
        issued_s = int(self._clock())
        user_id = _anonymous_user(random)
        mac = self._mac("a1", f"{issued_s:x}", random, user_id)
        return AnonymousSession(user_id, f"a1.{issued_s:x}.{random}.{mac}", issued_s)

    def _mac(self, *parts: str) -> str:
        return _text(hmac.digest(self._key, "\x1f".join(parts).encode(), "sha256")[:24])


def _anonymous_user(random: str) -> str:
    """Derived, so that the session id alone says who; one way, so that a user id in a log opens no session."""
    return "anon-" + hashlib.sha256(random.encode()).hexdigest()[:24]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
