"""From a token's claims to an Identity, by the ways of the provider."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from kdcube.config.openid import OpenIdSettings
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.openid import InvalidToken, Verified, check_access_token, check_id_token
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_user_id

NAME_MAX_CHARS = 256
ROLES_MAX = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Rules(Protocol):
    """What a provider's tokens mean. Both raise InvalidToken for a token that is not of that kind, or not for us."""

    def of_access_token(self, verified: Verified) -> Identity: ...

    def of_id_token(self, verified: Verified) -> Identity: ...


class StandardRules:
    """OpenID Connect, and access tokens as RFC 9068 describes them."""

    def __init__(self, settings: OpenIdSettings) -> None:
        self._settings = settings

    def of_access_token(self, verified: Verified) -> Identity:
        check_access_token(verified, self._settings.audiences)
        return self._identity(verified.claims)

    def of_id_token(self, verified: Verified) -> Identity:
        check_id_token(verified, self._settings.client_ids)
        return self._identity(verified.claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        email = None if claims.get("email_verified") is False else claims.get("email")
        return Identity(
            user_id_of(claims),
            name_of(claims.get("preferred_username") or claims.get("username") or claims.get("name")),
            name_of(email),
            roles_of(claims, self._settings.roles_claims),
        )


def user_id_of(claims: Mapping[str, Any]) -> str:
    """The subject. Raises InvalidToken."""
    subject = claims.get("sub")
    try:
        return check_user_id("sub", subject if isinstance(subject, str) else "")
    except InvalidInput:
        raise InvalidToken("it does not say whose it is") from None


def name_of(value: object) -> str | None:
    """A name or an address for people; None for what is none."""
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_MAX_CHARS or _CONTROL.search(value):
        return None
    return value


def roles_of(claims: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The roles in those claims, each named as it is or as a path with dots; a text holds several between spaces."""
    found: dict[str, None] = {}
    for name in names:
        value = claims[name] if name in claims else _at(claims, name.split("."))
        parts: Iterable[object] = value.split() if isinstance(value, str) else _items(value)
        found.update((role, None) for role in parts if name_of(role) and isinstance(role, str))
    return tuple(found)[:ROLES_MAX]


def _at(claims: Mapping[str, Any], path: Sequence[str]) -> object:
    value: object = claims
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, object]", value).get(name)
    return value


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
