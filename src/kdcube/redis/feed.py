"""The feed of a user: one light log of what happens to the user's turns and conversations.

Events are JSON objects with ``type``: ``turn.accepted``, ``turn.started``, ``turn.ended``, ``turn.withdrawn``,
``steer.receipt``, ``conversation.*``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import msgspec

from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_READ = Script("read_feed")
_NOTIFY = Script("notify")

PAGE_ENTRIES = 500


@dataclass(frozen=True, slots=True)
class FeedChange:
    """A published event: its offset in the feed of that name."""

    feed: str
    offset: int
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A page of a feed.

    ``epoch`` None: Valkey has none now. ``feed`` is '' while the user has no feed. ``first`` is the first offset
    that is kept (0: none is). ``live`` maps live turns to the offsets at which they were accepted.
    ``events`` are pairs of offset and event after the asked offset; when the last is below ``tail``, read on.
    """

    epoch: int | None
    feed: str
    tail: int
    first: int
    live: dict[str, int]
    events: list[tuple[int, dict[str, Any]]]


def decode_feed_change(payload: bytes) -> FeedChange:
    """Decodes a message of the feed's channel."""
    header, _, event = payload.partition(b"\n")
    feed, _, offset = header.partition(b" ")
    return FeedChange(feed.decode(), int(offset), msgspec.json.decode(event))


class Feeds:
    """The feeds of one partition."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def read(self, user_id: str, after: int | None) -> FeedPage:
        """The feed after ``after``; None for the tail and the live turns only."""
        keys = self._keys
        epoch, name, tail, first, live, entries = await _READ(
            self._connection,
            [keys.epoch, keys.feed(user_id), keys.live(user_id)],
            ["" if after is None else after, PAGE_ENTRIES],
        )
        return FeedPage(
            int(epoch) if epoch else None,
            name.decode(),
            tail,
            first,
            {turn.decode(): offset for turn, offset in live},
            [(offset, msgspec.json.decode(event)) for offset, event in entries],
        )

    async def notify(self, user_id: str, event: dict[str, Any]) -> int:
        """Appends a notice; returns its offset."""
        keys = self._keys
        return await _NOTIFY(
            self._connection,
            [keys.feed(user_id), keys.live(user_id)],
            [keys.feed_channel(user_id), secrets.token_hex(4), msgspec.json.encode(event)],
        )
