"""One turn's log, from its beginning to its end, as the answer of a chat completion."""

from __future__ import annotations

from collections.abc import Callable

from kdcube.ingress.streams.hub import LogHub
from kdcube.ingress.streams.projection.openai import Completion, LogLines
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.track import Place, Track

_LINES = LogLines()


class CompletionStream:
    """The source of a completion's chunks. It cannot be resumed: it always begins at the log's beginning."""

    def __init__(
        self, hub: LogHub, turn_id: str, completion: Completion, *, settings: StreamSettings, clock: Clock
    ) -> None:
        self._hub = hub
        self._turn_id = turn_id
        self._completion = completion
        self._settings = settings
        self._clock = clock
        self._track: Track | None = None
        self._wake: Callable[[], None] = lambda: None

    @property
    def ended(self) -> bool:
        return self._completion.ended

    @property
    def more(self) -> bool:
        return self._track is not None and not self._track.at_tail

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._track = Track(
            self._hub,
            self._turn_id,
            Place(),
            projection=_LINES,
            ids=lambda _: b"",
            notify=self._notify,
            settings=self._settings,
            clock=self._clock,
        )

    def ready(self) -> bytes | None:
        track = self._track
        if track is None or self.ended:
            return b""
        while lines := track.ready():
            if (chunks := self._take(lines)) or self.ended:  # lines that show nothing are passed over
                return chunks
        return lines

    async def fetch(self) -> bytes:
        return self._take(await self._track.fetch()) if self._track else b""

    def close(self) -> None:
        if self._track is not None:
            self._track.close()

    def _take(self, lines: bytes) -> bytes:
        return self._completion.take(lines.splitlines()) if lines else b""

    def _notify(self, _: Track) -> None:
        self._wake()
