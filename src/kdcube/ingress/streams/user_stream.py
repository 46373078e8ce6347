"""``GET /sse/stream``: what happens to a user, and what the user's live turns say, interleaved and resumable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdcube.gateway.caller import Caller
from kdcube.ingress.streams.conversations import FeedEvents
from kdcube.ingress.streams.feed import Entry, FeedHub, FeedLife, UserFeed
from kdcube.ingress.streams.hub import LogHub
from kdcube.ingress.streams.opening import NO_FEED, Opening
from kdcube.ingress.streams.projection import Projection, sse
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.track import Place, Track
from kdcube.protocol.cursors import MAX_LIVE_TURNS, user_tag
from kdcube.redis.keys import Keys

_DONE_KEPT = 256


def _nobody() -> None:
    pass


class UserStream:
    """The source of one user's events (rule 18).

    The cursor behind each event names the feed's offset and the place in each live turn. Its epoch is the oldest that
    any place counts in, and 0 while a place is lost: whoever is cut before the stream is whole again is resynced again.
    """

    __slots__ = (
        "_awake", "_blocked_on", "_caller", "_clock", "_conversation_id", "_done", "_elsewhere", "_epoch",
        "_events", "_feed", "_feed_awake", "_feed_behind", "_feed_name", "_feeds", "_greeting", "_hub",
        "_life", "_mover", "_offset", "_opening", "_orphans_until", "_projection", "_settings",
        "_stream_id", "_tag", "_tracks", "_wake", "ended", "more",
    )  # fmt: skip

    def __init__(
        self,
        hub: LogHub,
        feeds: FeedHub,
        caller: Caller,
        stream_id: str,
        opening: Opening,
        *,
        conversation_id: str | None,
        keys: Keys,
        projection: Projection,
        settings: StreamSettings,
        clock: Clock,
    ) -> None:
        self.ended = False
        self.more = False
        self._hub = hub
        self._feeds = feeds
        self._caller = caller
        self._stream_id = stream_id
        self._opening = opening
        self._conversation_id = conversation_id
        self._projection = projection
        self._settings = settings
        self._clock = clock
        self._events = FeedEvents(caller, keys, clock)
        self._tag = user_tag(caller.user_id).encode()
        self._epoch = opening.epoch
        self._feed_name = opening.feed.encode()
        self._offset = opening.offset
        self._feed: UserFeed | None = None
        self._life: FeedLife | None = None
        self._feed_awake = False
        self._feed_behind = False
        self._blocked_on: Track | None = None
        """The feed waits until this turn's terminal event was sent."""
        self._tracks: dict[str, Track] = {}
        self._awake: dict[Track, None] = {}
        self._mover: Track | None = None
        """Who moved last: its ``prefix`` holds as long as nobody else moves."""
        self._done: dict[str, None] = {}
        """Turns that were shown to their end here, the latest of them."""
        self._elsewhere: set[str] = set()
        self._orphans_until = 0
        """Up to this offset the feed may still tell of orphans: until then they stay in the cursor, ended or not."""
        self._greeting = b""
        self._wake = _nobody

    # --- the source

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        for turn_id, place in self._opening.places.items():
            self._add(turn_id, place).orphan = turn_id in self._opening.orphans
        self._elsewhere.update(self._opening.elsewhere)
        self._greeting = self._ready_event() + b"".join(
            self._events.too_many(turn_id) for turn_id in self._opening.elsewhere
        )
        self._feed = self._feeds.follow(self._caller.user_id, self)
        self._feed_awake = True

    def close(self) -> None:
        if self._feed is not None:
            self._feeds.unfollow(self._feed, self)
        for track in self._tracks.values():
            track.close()
        self._tracks.clear()
        self._awake.clear()
        self._wake = _nobody  # no circle is left for the garbage collector

    def wake(self) -> None:
        """The feed has news."""
        self._feed_awake = True
        self._wake()

    def ready(self) -> bytes | None:
        self._feed_behind = False
        data = self._next()
        self.more = bool(self._awake or self._feed_awake)
        if not (data and self.more):
            return data
        parts = [data]
        size = len(data)
        while size < self._settings.send_bytes and (data := self._next()):
            parts.append(data)
            size += len(data)
        self.more = data != b""  # None: what has to be read first comes after these
        return b"".join(parts)

    def _next(self) -> bytes | None:
        if self._greeting:
            data, self._greeting = self._greeting, b""
            return data
        if self._feed_awake and (self._blocked_on is None or self._blocked_on.ended):
            data = self._advance_feed()
            if data is None:
                self._feed_behind = True
                return None
            if data:
                return data
        awake = self._awake
        while awake:
            track = next(iter(awake))
            data = track.ready()
            if data is None:
                return None
            del awake[track]
            if data:
                if track.ended:
                    self._finish(track)
                elif track.offset < track.log.tail:
                    awake[track] = None  # behind the others
                return data
            if track.ended:  # its cursor already stood behind the terminal event
                self._finish(track)
                return self._next()
        return b""

    async def fetch(self) -> bytes:
        if self._feed_behind and self._feed is not None:
            self._feed_behind = False
            entries = await self._feeds.page(self._feed, self._offset)
            return self._take(entries) if entries else b""
        track = next(iter(self._awake))
        data = await track.fetch()
        if track in self._awake:  # it may have been dropped, but only by this coroutine
            del self._awake[track]
            self._awake[track] = None
        if track.ended:
            self._finish(track)
        return data

    # --- turns

    def _add(self, turn_id: str, place: Place) -> Track:
        track = self._tracks[turn_id] = Track(
            self._hub,
            turn_id,
            place,
            projection=self._projection,
            ids=self._ids,
            notify=self._track_awake,
            settings=self._settings,
            clock=self._clock,
            waits_in=self._feed and self._feed.waits_in,
        )
        self._awake[track] = None
        self._mover = None
        return track

    def _track_awake(self, track: Track) -> None:
        self._awake[track] = None
        self._wake()

    def _finish(self, track: Track) -> None:
        """Its terminal event is on its way: the feed may tell its end, if it does."""
        self._awake.pop(track, None)
        track.close()
        self._drop_orphans()

    def _leave(self, track: Track) -> None:
        """It says nothing now, but may yet: a steer whose bundle never took it becomes a turn after all."""
        track.close()
        self._tracks.pop(track.turn_id, None)
        self._awake.pop(track, None)
        self._mover = None

    def _drop(self, track: Track) -> None:
        self._leave(track)
        self._done[track.turn_id] = None
        if len(self._done) > _DONE_KEPT:
            del self._done[next(iter(self._done))]

    def _drop_orphans(self) -> None:
        if self._offset >= self._orphans_until:
            for track in tuple(self._tracks.values()):
                if track.orphan and track.ended:
                    self._drop(track)

    def _show(self, turn_id: str) -> Track | None:
        """The track of a turn that is not shown yet; None when it was shown before, or there is no room."""
        if turn_id in self._done or turn_id in self._elsewhere:
            return None
        if len(self._tracks) >= MAX_LIVE_TURNS:
            self._elsewhere.add(turn_id)
            return None
        return self._add(turn_id, Place())

    # --- the feed

    def _advance_feed(self) -> bytes | None:
        feed = self._feed
        if feed is None or not feed.synced or feed.life is None:
            return b""
        if self._life is not feed.life:
            self._join(feed.life)
        entries = feed.recent(self._offset)
        return None if entries is None else self._take(entries)

    def _join(self, life: FeedLife) -> None:
        """The feed is another one than the cursor knows, or a part of it was lost: goes on with what there is."""
        first, self._life = self._life is None, life
        name = (life.name or NO_FEED).encode()
        if first and name == self._feed_name:
            return
        self._offset = life.first - 1 if life.first and not life.broken else life.tail
        self._feed_name = name
        self._mover = None
        for turn_id, accepted in life.live.items():
            if accepted <= self._offset and turn_id not in self._tracks:
                self._show(turn_id)
        for track in tuple(self._tracks.values()):
            if track.turn_id not in life.live:
                track.orphan = True
        self._orphans_until = life.tail

    def _take(self, entries: list[Entry]) -> bytes:
        parts: list[bytes] = []
        size = 0
        self._blocked_on = None
        for offset, event in entries:
            if self._wanted(event):
                before = len(self._elsewhere)
                if not self._follow(event):
                    break
                if len(self._elsewhere) > before:
                    parts.append(self._events.too_many(event["turn_id"]))
                self._offset = offset
                self._mover = None
                parts.append(self._events.render(event, self._cursor()))
                size += len(parts[-1])
                if size >= self._settings.send_bytes:
                    break
            else:
                self._offset = offset
                self._mover = None
        self._hub.figures.events.add(len(parts))
        self._drop_orphans()
        self._feed_awake = self._feed is not None and self._offset < self._feed.tail
        return b"".join(parts)

    def _wanted(self, event: dict[str, Any]) -> bool:
        if event["type"] == "turn.ended" and event.get("turn_id") in self._done:
            return False  # told before: a replica of Valkey that lags took over, and learnt of the end as news
        return self._conversation_id is None or event.get("conversation_id") == self._conversation_id

    def _follow(self, event: dict[str, Any]) -> bool:
        """Does what the event means for the turns that are shown. False: it must wait for a turn's terminal event."""
        turn_id = event.get("turn_id", "")
        track = self._tracks.get(turn_id)
        match event["type"]:
            case "turn.accepted":
                if track is None:
                    self._show(turn_id)
            case "turn.ended":
                track = track or self._show(turn_id)
                if track is not None and not track.ended:
                    self._blocked_on = track
                    return False
                if track is not None:
                    self._drop(track)
                self._elsewhere.discard(turn_id)
            case "turn.withdrawn":
                if track is not None:
                    self._leave(track)
            case "steer.receipt" if event.get("state") in ("applied", "cancelled"):
                if track is not None:
                    self._leave(track)
            case _:
                pass
        return True

    # --- cursors

    def _ids(self, track: Track) -> bytes:
        if track is not self._mover or track.prefix is None:
            self._mover = track
            track.prefix = b"id: %b;%b.%d." % (
                self._cursor(besides=track),
                track.turn_id.encode(),
                track.incarnation,
            )
        return track.prefix

    def _cursor(self, besides: Track | None = None) -> bytes:
        """The cursor as of now, without the entry of ``besides``."""
        entries: list[bytes] = []
        epoch = None
        newest = self._epoch
        for track in self._tracks.values():
            if not track.offset and not track.lost:
                continue
            if not track.ended and (epoch is None or track.epoch < epoch):
                epoch = track.epoch
            newest = max(newest, track.epoch)
            if track is besides or not track.offset:
                continue
            if track.entry_at != track.offset:
                end = b"e" if track.ended else b""
                track.entry = b";%b.%d.%d%b" % (track.turn_id.encode(), track.incarnation, track.offset, end)
                track.entry_at = track.offset
            entries.append(track.entry)
        self._epoch = newest
        return b"u1.%d.%b.%b.%d%b" % (
            newest if epoch is None else epoch,
            self._tag,
            self._feed_name,
            self._offset,
            b"".join(entries),
        )

    def _ready_event(self) -> bytes:
        caller, cursor = self._caller, self._cursor()
        data = {
            "type": "ready",
            "ts": self._clock.now_ms(),
            "session_id": caller.session_id,
            "stream_id": self._stream_id,
            "user_type": caller.user_type,
            "user_id": caller.user_id,
            "username": caller.username,
            "conversation_id": self._conversation_id,
            "cursor": cursor.decode(),
        }
        return sse.event("ready", data, id_=cursor)
