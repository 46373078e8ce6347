"""What a token proves. Each identity provider is one Authenticator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kdcube.breaker import Breaker
from kdcube.gateway.identity.scopes import Scope
from kdcube.protocol.turns import UserType

_PRIVILEGED = frozenset({"kdcube:role:super-admin", "kdcube:role:admin"})
_PAID = "kdcube:role:paid"


SERVICE = "service:"
"""Begins the user id of a service identity, which API keys alone prove."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as the identity provider knows them."""

    user_id: str
    username: str | None = None
    email: str | None = None
    roles: tuple[str, ...] = ()
    user_type: UserType | None = None
    """None: by its roles."""
    key_id: str | None = None
    """Of the API key that proves it."""
    scopes: frozenset[Scope] = frozenset()
    """What the API key may be used for."""


class Authenticator(Protocol):
    """Tells whose a token is."""

    @property
    def breaker(self) -> Breaker | None:
        """Of the identity provider, where there is one to be asked."""
        ...

    async def authenticate(self, token: str | None, id_token: str | None = None) -> Identity | None:
        """Whose the tokens of one place of a request are; one of the two is there.

        ``token`` says what its holder may do, ``id_token`` who they are; both must be of the same user. None when one
        of them proves nothing. Raises StoreUnavailable or Unavailable when that cannot be told now.
        """
        ...


class NobodyKnown:
    """The Authenticator of an installation without an identity provider: no token is valid."""

    breaker = None

    async def authenticate(self, token: str | None, id_token: str | None = None) -> Identity | None:
        return None


def user_type_of(roles: Iterable[str]) -> UserType:
    """The class of a signed-in user."""
    held = set(roles)
    if held & _PRIVILEGED:
        return UserType.PRIVILEGED
    return UserType.PAID if _PAID in held else UserType.REGISTERED
