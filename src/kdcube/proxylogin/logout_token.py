"""What a provider's logout token must say (OpenID Connect Back-Channel Logout 1.0, 2.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from kdcube.gateway.identity.openid import InvalidToken, Verified
from kdcube.postgres.logins import Spending

EVENT = "http://schemas.openid.net/event/backchannel-logout"
MAX_AGE_S = 600.0
ID_MAX_CHARS = 256

_TYPES = frozenset({None, "JWT", "LOGOUT+JWT"})


@dataclass(frozen=True, slots=True)
class SignOutOrder:
    """Whom to sign out: a session of the provider, a user, or a user's session."""

    session: str | None
    user_id: str | None
    spending: Spending


def checked_logout_token(verified: Verified, client_ids: Collection[str], now_s: float) -> SignOutOrder:
    """``verified`` has the provider's signature and its times are right. Raises InvalidToken."""
    claims = verified.claims
    audience = claims.get("aud")
    events = claims.get("events")
    if verified.type not in _TYPES or not isinstance(events, Mapping) or not isinstance(events.get(EVENT), Mapping):  # pyright: ignore[reportUnknownMemberType]
        raise InvalidToken("it is of another kind")
    if "nonce" in claims:
        raise InvalidToken("it is of another kind")
    named = cast("list[object]", audience) if isinstance(audience, list) else [audience]
    if not any(name in client_ids for name in named):
        raise InvalidToken("it was made for another client")
    issued = claims.get("iat")
    if not isinstance(issued, int | float) or now_s - issued > MAX_AGE_S:
        raise InvalidToken("it is too old")
    session, user_id, id_ = _text(claims, "sid"), _text(claims, "sub"), _text(claims, "jti")
    if id_ is None or (session is None and user_id is None):
        raise InvalidToken("it does not say whom to sign out, or has no id")
    spending = Spending("logout_token", hashlib.sha256(id_.encode()).digest(), int(verified.expires_s * 1000))
    return SignOutOrder(session, user_id, spending)


def _text(claims: Mapping[str, object], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= ID_MAX_CHARS or not value.isprintable():
        raise InvalidToken(f"its {name} is not readable")
    return value
