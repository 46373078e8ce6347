"""``GET /turns/{id}/stream``: one turn, from any offset to its end."""

from __future__ import annotations

from collections.abc import Callable

from kdcube.ingress.streams.hub import LogHub
from kdcube.ingress.streams.projection import Projection
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.track import ANY_LIFE, Place, Track
from kdcube.protocol.cursors import parse_turn_cursor
from kdcube.protocol.errors import InvalidInput

_OFFSET_MAX_DIGITS = 15


def turn_place(turn_id: str, cursor: str | None, offset: str | None) -> Place:
    """Where a client stands, by its cursor or else by a bare offset. Raises InvalidInput."""
    if cursor is not None:
        given = parse_turn_cursor(cursor)
        if given.turn_id != turn_id:
            raise InvalidInput("cursor", "the cursor belongs to another turn")
        at = given.position
        return Place(given.epoch, at.incarnation, at.offset, ended=at.ended)
    if offset is not None:
        if not (offset.isascii() and offset.isdigit() and len(offset) <= _OFFSET_MAX_DIGITS):
            raise InvalidInput("offset", "offset must be a number of events")
        return Place(0, ANY_LIFE, int(offset))
    return Place()


def cursor_id(track: Track) -> bytes:
    """The beginning of the id of a track's events: the cursor behind each."""
    if track.prefix is None:
        track.prefix = b"id: t1.%d.%b.%d." % (track.epoch, track.turn_id.encode(), track.incarnation)
    return track.prefix


def no_id(_: Track) -> bytes:
    """For events without one."""
    return b""


class TurnStream:
    """The source of one turn's events, as ``projection`` shows them."""

    __slots__ = (
        "_clock", "_hub", "_ids", "_place", "_projection", "_settings", "_track", "_turn_id", "_wake",
    )  # fmt: skip

    def __init__(
        self,
        hub: LogHub,
        turn_id: str,
        place: Place,
        *,
        projection: Projection,
        ids: Callable[[Track], bytes] = cursor_id,
        settings: StreamSettings,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._turn_id = turn_id
        self._place = place
        self._projection = projection
        self._ids = ids
        self._settings = settings
        self._clock = clock
        self._track: Track | None = None
        self._wake: Callable[[], None] = lambda: None

    @property
    def ended(self) -> bool:
        return self._track is not None and self._track.ended

    @property
    def more(self) -> bool:
        return self._track is not None and not self._track.at_tail

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._track = Track(
            self._hub,
            self._turn_id,
            self._place,
            projection=self._projection,
            ids=self._ids,
            notify=self._notify,
            settings=self._settings,
            clock=self._clock,
        )

    def ready(self) -> bytes | None:
        return self._track.ready() if self._track else b""

    async def fetch(self) -> bytes:
        return await self._track.fetch() if self._track else b""

    def close(self) -> None:
        if self._track is not None:
            self._track.close()

    def _notify(self, _: Track) -> None:
        self._wake()
