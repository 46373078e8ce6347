"""Reading a pipe in the loop."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
import uvloop

from kdcube.proc.bundles.pipe import PipeReader


class Heard(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_all_is_read_and_the_descriptor_is_closed_once(run):
    async def main() -> None:
        ours, theirs = os.pipe()
        heard = Heard()
        reader = PipeReader(os.fdopen(ours, "rb", buffering=0), heard)
        os.write(theirs, b"one ")
        reader.pause_reading()
        os.write(theirs, b"two")
        os.close(theirs)
        reader.resume_reading()
        await heard.ended.wait()
        assert heard.data == b"one two"
        again, other = socket.socketpair()  # somebody else gets the number of the pipe
        assert ours in (again.fileno(), other.fileno())
        reader.close()
        reader.resume_reading()
        for _ in range(5):
            await asyncio.sleep(0)
        os.fstat(ours)
        again.close()
        other.close()

    run(main())
