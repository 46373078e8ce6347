"""Tells all processes at once that an API key is revoked. A hint: who misses it finds out when it looks again."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import Subscriber

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Revocations:
    """The channel of one tenant and project."""

    def __init__(self, connection: Connection, subscriber: Subscriber, keys: Keys) -> None:
        self._connection = connection
        self._subscriber = subscriber
        self._channel = keys.revocation_channel

    async def announce(self, key_id: str) -> None:
        """Says that a key is revoked. When Valkey is away nobody hears it."""
        try:
            await self._connection.call("PUBLISH", self._channel, key_id)
        except KDCubeError as error:
            logger.warning("api_key.revocation_not_announced", key_id=key_id, reason=str(error))

    @contextmanager
    def heard_by(self, listener: Callable[[str | None], None]) -> Generator[None]:
        """Calls ``listener`` with the id of each revoked key, and with None when some may have been missed."""

        def hear(payload: bytes | None) -> None:
            listener(None if payload is None else payload.decode())

        self._subscriber.subscribe(self._channel, hear)
        try:
            yield
        finally:
            self._subscriber.unsubscribe(self._channel, hear)
