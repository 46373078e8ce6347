"""Proc's sign of life to its hosts: the counterpart of their beat.

A proc that stands still (SIGSTOP, a stalled loop) loses its leases, and another worker goes on with its conversations.
Its hosts are processes of their own and would run on: they end themselves when the pulse has stopped for long enough
(``sdk.host``), before any of those leases can run out.
"""

from __future__ import annotations

import mmap
import os


class Pulse:
    """A counter in memory that proc can write and its hosts can read. ``beat`` may be called by any thread."""

    def __init__(self) -> None:
        writable = os.memfd_create("pulse", os.MFD_CLOEXEC)
        try:
            os.ftruncate(writable, 8)
            self._memory = mmap.mmap(writable, 8)
            self.fd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
            """For hosts."""
        finally:
            os.close(writable)
        self._count = 0

    def beat(self) -> None:
        self._count += 1
        self._memory[:] = self._count.to_bytes(8, "little")

    def close(self) -> None:
        os.close(self.fd)
        self._memory.close()
