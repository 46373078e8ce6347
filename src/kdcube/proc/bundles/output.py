"""What a bundle prints, line by line into proc's log, so much and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

MAX_LINE_BYTES = 8192
LINES_PER_S = 100
"""Lines beyond it are counted, not kept: a bundle that floods its output must not flood the log."""
BYTES_PER_S = 8 * 1024 * 1024
"""What is read at most. A bundle that prints more waits until it is read: else reading would take proc's time."""


class OutputLines(asyncio.Protocol):
    """Reads a pipe. ``write(line)`` gets each line, ``dropped(count)`` is told how many were left out."""

    def __init__(
        self, write: Callable[[str], None], dropped: Callable[[int], None], clock: Callable[[], float]
    ) -> None:
        self._write = write
        self._report_dropped = dropped
        self._clock = clock
        self.ended = asyncio.Event()
        self._transport: asyncio.ReadTransport | None = None
        self._reading_again: asyncio.TimerHandle | None = None
        self._finishing = False
        self._rest = b""
        self._skipping = False
        """The beginning of the line that is being read is dealt with; its end is left out."""
        self._second: int = 0
        self._lines = 0
        self._bytes = 0
        self._dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.ReadTransport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._tick()
        self._bytes += len(data)
        room = max(0, LINES_PER_S - self._lines)
        *lines, rest = (self._rest + data).split(b"\n", room + 1)
        for line in lines[:room]:
            if self._skipping:
                self._skipping = False
            else:
                self._line(line)
        if len(lines) > room:  # more than are kept: counted, without a look at each
            self._drop(lines[room], rest)
        elif len(rest) > MAX_LINE_BYTES:
            if not self._skipping:
                self._line(rest)
            self._skipping, self._rest = True, b""
        else:
            self._rest = rest
        if self._bytes > BYTES_PER_S and not self._finishing and self._transport is not None:
            self._transport.pause_reading()
            wait_s = 1 - self._clock() % 1
            self._reading_again = asyncio.get_running_loop().call_later(wait_s, self._transport.resume_reading)

    def finish(self) -> None:
        """The program has ended: what is left in the pipe is read at once."""
        self._finishing = True
        if self._reading_again is not None and not self.ended.is_set() and self._transport is not None:
            self._reading_again.cancel()
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reading_again is not None:
            self._reading_again.cancel()
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._rest = b""
        self._flush_dropped()
        self.ended.set()

    def _tick(self) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines, self._bytes = second, 0, 0
            self._flush_dropped()

    def _drop(self, line: bytes, more: bytes) -> None:
        """``line`` has ended; ``more`` holds any number of lines, the last of which has not."""
        if not self._skipping and line:
            self._dropped += 1
        *_, rest = more.rsplit(b"\n", 1)
        self._dropped += more.count(b"\n") + bool(rest)
        self._skipping, self._rest = bool(rest), b""

    def _line(self, line: bytes) -> None:
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
