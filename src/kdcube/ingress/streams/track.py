"""A stream's place in one log: what comes next, from memory or from Valkey, and what replaces a place that is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from kdcube.ingress.streams.hub import LogHub
from kdcube.ingress.streams.lines import position_line, resynchronised_line
from kdcube.ingress.streams.projection import Projection
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.turnlog import Life
from kdcube.redis.queue import QueuePosition

ANY_LIFE = -1
"""The incarnation of a place that says an offset only."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client says that it stands. ``lost``: its cursor is genuine but leads nowhere, so it must be resynced.

    ``ended``: it has the terminal event.
    """

    epoch: int = 0
    incarnation: int = 0
    offset: int = 0
    lost: bool = False
    ended: bool = False


class Track:
    """``offset`` events of the log were taken. ``ended``: the terminal event was among them.

    ``epoch`` is that of the life in which ``offset`` counts; 0 while the place is lost.
    ``prefix`` is for the owner: the cached start of an ``id:`` line.
    """

    __slots__ = (
        "_clock", "_hub", "_ids", "_life", "_looks", "_notify", "_page", "_page_after", "_place", "_position",
        "_projection", "_send_bytes", "ended", "entry", "entry_at", "epoch", "incarnation", "log", "offset", "orphan",
        "prefix", "turn_id",
    )  # fmt: skip

    def __init__(
        self,
        hub: LogHub,
        turn_id: str,
        place: Place,
        *,
        projection: Projection,
        ids: Callable[[Track], bytes],
        notify: Callable[[Track], None],
        settings: StreamSettings,
        clock: Clock,
        waits_in: Callable[[str], int | None] | None = None,
    ) -> None:
        self.turn_id = turn_id
        self.offset = place.offset
        self.incarnation = place.incarnation
        self.ended = place.ended
        self.epoch = 0 if place.lost and not place.ended else place.epoch
        self.orphan = False
        """No feed will tell its end."""
        self.prefix: bytes | None = None
        self.entry = b""
        self.entry_at = -1
        self._hub = hub
        self._projection = projection
        self._ids = ids
        self._notify = notify
        self._send_bytes = settings.send_bytes
        self._clock = clock
        self._place: Place | None = place
        """Until the log's present life is joined."""
        self._life: Life | None = None
        self._looks = -1
        self._page: list[bytes] | None = None
        """Lines of the joined life behind ``_page_after``: what a reader that is far behind holds."""
        self._page_after = 0
        self._position: QueuePosition | None = None
        self.log = hub.follow(turn_id, self, after=place.offset, waits_in=waits_in)

    def close(self) -> None:
        self._hub.unfollow(self.log, self)

    def wake(self) -> None:
        self._notify(self)

    @property
    def lost(self) -> bool:
        """The client holds what cannot be continued, and was not resynced yet."""
        return self._place is not None and self._place.lost and not self.ended

    # --- taking

    @property
    def at_tail(self) -> bool:
        """There is nothing more to take now."""
        log = self.log
        return self._life is log.life and self.offset == log.tail

    def ready(self) -> bytes | None:
        """The next events, complete with ids, as far as memory has them. Empty: nothing now. None: ``fetch`` it."""
        log = self.log
        if self.ended or not log.synced:
            return b""
        if self._life is not log.life and not self._join():
            if log.waiting and not self.lost:
                return self._queue_position()  # what is shown stands until the next attempt says something
            return b"" if self._looks == log.looks else None
        if self.offset == log.tail:
            if log.closed:
                self.ended = True
            return self._queue_position() if log.waiting else b""
        frames = log.recent(self._projection, self.offset, self._send_bytes)
        if frames is None:
            return self._deliver_page()
        self._page = None
        return self._deliver(frames, log.line(1) if self.offset == 0 else None)

    async def fetch(self) -> bytes:
        """What needs Valkey: a page behind the place, or a snapshot. Empty when the log has to be looked at first."""
        log = self.log
        life = log.life
        if self._life is not life:
            if self._ahead() and self._looks < 0:
                self._looks = log.looks  # until this reading is over there is nothing to take
                self._hub.look(log)
                return b""
            return await self._resync()
        self._page = await self._hub.page(log, self.offset)
        self._page_after = self.offset
        return b""

    def _deliver_page(self) -> bytes | None:
        """The next of a page that was read because memory does not reach back to this place; None without one."""
        start = self.offset - self._page_after
        if self._page is None or start >= len(self._page):
            return None
        render, head, incarnation, offset = self._projection.frame, self.log.head, self.incarnation, self.offset
        frames: list[bytes] = []
        size = 0
        for line in islice(self._page, start, None):
            offset += 1
            frames.append(render(head, incarnation, offset, line))
            size += len(frames[-1])
            if size >= self._send_bytes:
                break
        return self._deliver(frames, self._page[0] if self.offset == 0 else None)

    def _deliver(self, frames: list[bytes], first: bytes | None) -> bytes:
        self.offset += len(frames)
        figures = self._hub.figures
        figures.events.add(len(frames))
        prefix = self._ids(self)
        data = prefix + (prefix.join(frames) if len(frames) > 1 else frames[0])
        if first is not None and first.startswith(b"snapshot "):
            figures.resyncs.add()
            data = self._notice() + data
        log = self.log
        if log.closed and self.offset == log.tail:
            self.ended = True
        return data

    # --- joining

    def _join(self) -> bool:
        """Whether the place is a place in the log's present life."""
        life = self.log.life
        if self._saw_all(life):
            pass
        elif life.stored:  # its first event replaces whatever was shown
            place = self._place
            if place is None or place.lost or place.incarnation != 0 or place.offset > self.log.tail:
                self.offset = 0
        elif self.lost or (self.offset and not self._fits(life)):
            return False
        self._enter(life)
        return True

    def _saw_all(self, life: Life) -> bool:
        """Nothing is left to tell, whatever became of the feed meanwhile."""
        place, log = self._place, self.log
        return (
            place is not None
            and log.closed
            and place.offset == log.tail > 0
            and (place.epoch, place.incarnation) == life.order
        )

    def _fits(self, life: Life) -> bool:
        place = self._place
        return (
            place is not None
            and place.offset <= self.log.tail
            and (place.incarnation == ANY_LIFE or (place.epoch, place.incarnation) == life.order)
        )

    def _ahead(self) -> bool:
        """The place may be one that this process has not heard of yet."""
        place = self._place
        return (
            place is not None
            and not place.lost
            and place.offset > self.log.tail
            and (place.incarnation == ANY_LIFE or (place.epoch, place.incarnation) == self.log.life.order)
        )

    def _enter(self, life: Life) -> None:
        self._life, self._place = life, None
        self.epoch, self.incarnation = life.epoch, life.incarnation
        self.prefix = None
        self.entry_at = -1
        self._page = None

    async def _resync(self) -> bytes:
        log = self.log
        folded = await self._hub.snapshot(log)
        if folded is None:
            return b""
        self._enter(folded.life)
        self.offset = folded.offset
        self._hub.figures.events.add()
        self._hub.figures.resyncs.add()
        frame = self._projection.frame(log.head, folded.life.incarnation, folded.offset, folded.line)
        return self._notice() + self._ids(self) + frame

    # --- asides

    def _notice(self) -> bytes:
        return self._projection.aside(self.log.head, resynchronised_line(now_ms=self._clock.now_ms()))

    def _queue_position(self) -> bytes:
        position = self.log.position
        if position is None or position == self._position:
            return b""
        self._position = position
        return self._projection.aside(self.log.head, position_line(position, now_ms=self._clock.now_ms()))
