"""Who makes a request."""

from __future__ import annotations

from dataclasses import dataclass

from kdcube.protocol.turns import UserType


@dataclass(frozen=True, slots=True)
class Caller:
    """The proven identity behind a request. Everything that is read or changed is scoped to ``user_id``."""

    user_id: str
    user_type: UserType
    roles: tuple[str, ...]
    session_id: str
    username: str | None = None
    email: str | None = None
    anonymous_user_id: str | None = None
    """The anonymous identity whose valid cookie accompanies a signed-in request: both are proven."""
    address: str | None = None
    """Of an anonymous caller: where they come from, which is limited as well. None on this machine."""

    key_id: str | None = None
    """Of the API key, when one made the request."""

    login: bytes | None = None
    """The hash of the login cookie that proves it: what outlives the request must end with that login."""

    @property
    def anonymous(self) -> bool:
        return self.user_type is UserType.ANONYMOUS
