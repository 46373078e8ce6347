"""What a bundle prints, line by line into proc's log, so much and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_LINE_BYTES = 8192
LINES_PER_S = 100
"""Lines beyond it are counted, not kept: a bundle that floods its output must not flood the log."""


class OutputLines(asyncio.Protocol):
    """Reads a pipe. ``write(line)`` gets each line, ``dropped(count)`` is told how many were left out."""

    def __init__(
        self, write: Callable[[str], None], dropped: Callable[[int], None], clock: Callable[[], float]
    ) -> None:
        self._write = write
        self._report_dropped = dropped
        self._clock = clock
        self.ended = asyncio.Event()
        self._rest = b""
        self._skipping = False
        self._second = 0
        self._lines = 0
        self._dropped = 0

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False  # the end of a line whose beginning was written
            else:
                self._line(line)
        if len(rest) > MAX_LINE_BYTES:
            if not self._skipping:
                self._line(rest)
            self._skipping, rest = True, b""
        self._rest = rest

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._rest = b""
        self._flush_dropped()
        self.ended.set()

    def _line(self, line: bytes) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
            self._flush_dropped()
        self._lines += 1
        if self._lines > LINES_PER_S:
            self._dropped += 1
            return
        text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            self._write(text + (" …" if len(line) > MAX_LINE_BYTES else ""))

    def _flush_dropped(self) -> None:
        if self._dropped:
            self._report_dropped(self._dropped)
            self._dropped = 0
