"""Erasing a user: PostgreSQL commits it, what runs is told to stop, maintenance does the rest."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.identity.api_keys import ApiKeys
from kdcube.gateway.turns.cancelling import Cancelling, now_ms
from kdcube.postgres.audit import Actor
from kdcube.postgres.erasing import Erasing, Erasure
from kdcube.protocol.errors import StoreUnavailable
from kdcube.redis.logins import LoginCache
from kdcube.redis.revocations import Revocations

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Erasures:
    """The wishes of users and administrators that a user's data be erased."""

    def __init__(
        self, erasing: Erasing, cancelling: Cancelling, keys: ApiKeys, revocations: Revocations, logins: LoginCache
    ) -> None:
        self._erasing = erasing
        self._cancelling = cancelling
        self._keys = keys
        self._revocations = revocations
        self._logins = logins

    async def request(self, user_id: str, actor: Actor) -> Erasure:
        """From its return on nothing of the user's data is shown, and all of it will be erased. Raises
        StoreUnavailable: then repeating it is safe.
        """
        requested = await self._erasing.request(user_id, actor, now_ms())
        await self._cancelling.carry_out(requested.cancelled)
        for key_id in requested.api_keys:
            self._keys.forget(key_id)
            await self._revocations.announce(key_id)
        try:
            await self._logins.end(requested.logins, "signed_out")
        except StoreUnavailable as error:  # what is cached of them is looked up again within seconds
            logger.warning("erasure.logins_not_told", reason=str(error))
        return requested.erasure

    async def get(self, erasure_id: str, user_id: str | None = None) -> Erasure | None:
        """A receipt; with ``user_id`` only that user's."""
        return await self._erasing.get(erasure_id, user_id)
