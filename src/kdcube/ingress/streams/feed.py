"""The feeds of users as this process knows them: one reader per feed, for all tabs of the user."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.sources import Channels, FeedReader
from kdcube.ingress.streams.tasks import Tasks
from kdcube.ingress.streams.turnlog import Follower
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.feed import FeedPage, decode_feed_change
from kdcube.redis.keys import Keys

_RECENT_EVENTS = 32
"""About ten turns. A stream that is further behind reads the feed."""

Entry = tuple[int, dict[str, Any]]
"""The offset of an event and the event."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class FeedLife:
    """One unbroken life of a feed. Two lives are never equal.

    ``tail``, ``first`` (the first offset kept, 0: none) and ``live`` are as when it was found. ``broken``: it has the
    name of the life before, but events of it were lost.
    """

    __slots__ = ("broken", "first", "live", "name", "tail")

    def __init__(self, page: FeedPage, *, broken: bool = False) -> None:
        self.name = page.feed
        self.tail = page.tail
        self.first = page.first
        self.live = page.live
        self.broken = broken


class UserFeed:
    """``tail`` events of ``life`` are known here; the last of them are in memory. Only FeedHub changes it."""

    __slots__ = (
        "_recent", "_unstarted", "epoch", "followers", "heard_at", "life", "look_again", "looking",
        "synced", "tail", "user_id",
    )  # fmt: skip

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.life: FeedLife | None = None
        self.tail = 0
        self.epoch = 0
        self.synced = False
        self.followers: dict[Follower, None] = {}
        self.looking = False
        self.look_again = False
        self.heard_at = 0.0
        self._recent: deque[Entry] = deque(maxlen=_RECENT_EVENTS)
        self._unstarted: set[str] = set()
        """Turns that were accepted and of which nothing was said since."""

    def begin(self, life: FeedLife) -> None:
        self.life = life
        self.tail = life.tail
        self._recent.clear()
        self._unstarted.clear()

    def append(self, offset: int, event: dict[str, Any]) -> None:
        self._recent.append((offset, event))
        self.tail = offset
        if event["type"] == "turn.accepted":
            self._unstarted.add(event["turn_id"])
        else:
            self._unstarted.discard(event.get("turn_id", ""))

    def waits_in(self, turn_id: str) -> int | None:
        """The epoch in which the turn waits; None unless it is sure that it has not started as far as was heard."""
        return self.epoch if turn_id in self._unstarted and self.synced and not self.looking else None

    def recent(self, after: int) -> list[Entry] | None:
        """The events behind ``after``; None when memory does not reach back so far."""
        missing = self.tail - after
        if missing > len(self._recent):
            return None
        return [self._recent[place] for place in range(-missing, 0)]

    def wake(self) -> None:
        for follower in tuple(self.followers):
            follower.wake()


class FeedHub:
    """The feeds that streams of this process follow."""

    def __init__(
        self,
        feeds: FeedReader,
        channels: Channels,
        keys: Keys,
        settings: StreamSettings,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._reader = feeds
        self._channels = channels
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._now = clock.monotonic()
        self._feeds: dict[str, UserFeed] = {}
        self._listeners: dict[str, partial[None]] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def follow(self, user_id: str, follower: Follower) -> UserFeed:
        """The feed of a user; ``follower`` is woken whenever it has more."""
        feed = self._feeds.get(user_id)
        if feed is None:
            feed = self._feeds[user_id] = UserFeed(user_id)
            feed.heard_at = self._now
            listener = self._listeners[user_id] = partial(self._hear, feed)
            self._channels.subscribe(self._keys.feed_channel(user_id), listener)
        feed.followers[follower] = None
        return feed

    def unfollow(self, feed: UserFeed, follower: Follower) -> None:
        feed.followers.pop(follower, None)
        if not feed.followers and self._feeds.get(feed.user_id) is feed:
            del self._feeds[feed.user_id]
            self._channels.unsubscribe(self._keys.feed_channel(feed.user_id), self._listeners.pop(feed.user_id))

    def tick(self) -> None:
        """Looks at feeds that could not be read, and at those that have been silent long."""
        self._now = self._clock.monotonic()
        silent_since = self._now - self._settings.feed_check_s
        for feed in self._feeds.values():
            if feed.heard_at <= silent_since or not feed.synced:
                self.look(feed)

    def look(self, feed: UserFeed) -> None:
        """Reads the feed, soon; once more if it is being read already."""
        if feed.looking:
            feed.look_again = True
        else:
            feed.looking = True
            self._tasks.start(self._look(feed))

    async def page(self, feed: UserFeed, after: int) -> list[Entry] | None:
        """Events of the feed's life behind ``after``, never beyond its tail; None: it must be looked at first."""
        life = feed.life
        try:
            page = await self._reader.read(feed.user_id, after)
        except KDCubeError as error:
            logger.debug("streams.feed_unreadable", reason=str(error))
            feed.synced = False
            return None
        if feed.life is not life:
            return None
        if life is None or page.feed != life.name:
            feed.synced = False
            self.look(feed)
            return None
        if not page.events:
            feed.begin(FeedLife(page, broken=True))
            feed.wake()
            return None
        return [entry for entry in page.events if entry[0] <= feed.tail]

    def _hear(self, feed: UserFeed, payload: bytes | None) -> None:
        if payload is None or not feed.synced or feed.life is None:
            self.look(feed)
            return
        change = decode_feed_change(payload)
        if change.feed != feed.life.name or change.offset > feed.tail + 1:
            self.look(feed)
        elif change.offset == feed.tail + 1:
            feed.heard_at = self._now
            feed.append(change.offset, change.event)
            feed.wake()

    async def _look(self, feed: UserFeed) -> None:
        try:
            more = True
            while feed.followers and (more or feed.look_again):
                feed.look_again = False
                more = await self._read(feed)
        except KDCubeError as error:
            logger.debug("streams.feed_unreadable", reason=str(error))
            feed.synced = False
        finally:
            feed.looking = False
            if feed.look_again and feed.followers:
                feed.look_again = False
                self.look(feed)
            feed.wake()

    async def _read(self, feed: UserFeed) -> bool:
        """Reads behind the tail. True when the feed has to be read on."""
        life, tail = feed.life, feed.tail
        page = await self._reader.read(feed.user_id, tail if life else None)
        feed.heard_at = self._now
        if page.epoch is None:
            feed.synced = False
            return False
        feed.epoch = page.epoch
        if life is None or page.feed != life.name or page.tail < tail:
            if feed.tail != tail:
                return True  # an event was heard meanwhile, the page may be older than it
            feed.begin(FeedLife(page, broken=life is not None and page.feed == life.name))
        else:
            for offset, event in page.events:
                if offset == feed.tail + 1:
                    feed.append(offset, event)
            if feed.tail < page.tail and page.first > feed.tail + 1:  # some were trimmed before they were read
                feed.begin(FeedLife(page, broken=True))
        feed.synced = True
        return feed.tail < page.tail
