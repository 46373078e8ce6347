"""Reads a pipe in the loop, and closes its descriptor once.

uvloop's own ``connect_read_pipe`` closes the descriptor, and some time later the file object that it was given, which
closes the same number again: by then it may be that of a file, a lock or a pipe that a thread has just opened.
"""

from __future__ import annotations

import asyncio
import os
from typing import IO

_READ_BYTES = 65_536


class PipeReader(asyncio.ReadTransport):
    """Gives what comes to ``protocol``, until the other end is closed or ``close`` is called. ``pipe`` is its own."""

    def __init__(self, pipe: IO[bytes], protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._protocol = protocol
        os.set_blocking(pipe.fileno(), False)
        protocol.connection_made(self)
        self.resume_reading()

    def pause_reading(self) -> None:
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())

    def resume_reading(self) -> None:
        if not self._pipe.closed:
            self._loop.add_reader(self._pipe.fileno(), self._read)

    def close(self) -> None:
        """A second call does nothing."""
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
            self._protocol.connection_lost(None)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._protocol.data_received(data)
        else:
            self.close()
