"""What streams ask of the stores: the parts of redis/ and postgres/ that they use, and that tests stand in for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kdcube.postgres.records import StoredTurn
from kdcube.redis.eventlog import LogPage
from kdcube.redis.feed import FeedPage
from kdcube.redis.queue import QueuePosition


class LogReader(Protocol):
    """``redis.eventlog.EventLogs``."""

    async def read(self, turn_id: str, after: int = 0) -> LogPage: ...


class FeedReader(Protocol):
    """``redis.feed.Feeds``."""

    async def read(self, user_id: str, after: int | None) -> FeedPage: ...


class Channels(Protocol):
    """``redis.subscriber.Subscriber``: a listener gets None for "read from your cursor", then messages."""

    def subscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None: ...

    def unsubscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None: ...


class StoredTurns(Protocol):
    """``postgres.turns.Turns``."""

    async def get(self, turn_id: str, user_id: str | None = None) -> StoredTurn | None: ...

    async def find(self, user_id: str, id_: str) -> StoredTurn | None: ...


class QueuePositions(Protocol):
    """``redis.queue.Queue``."""

    async def positions(self, turn_ids: Sequence[str], *, epoch: int) -> list[QueuePosition]: ...


class EpochSource(Protocol):
    """``redis.epoch.EpochWatch``."""

    @property
    def current(self) -> int: ...

    def suspect(self) -> None: ...

    async def wait_for(self) -> int: ...
