"""A line to a store that can be cut, and made slow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Self, TypeVar

import psutil

T = TypeVar("T")

Whose = Callable[[int], bool]
"""Tells connections by the port at their far end."""


def everybodys(port: int) -> bool:
    return True


def of_process(pid: int) -> Whose:
    """The connections of one process."""

    def mine(port: int) -> bool:
        connections = psutil.Process(pid).net_connections(kind="tcp4")
        return any(connection.laddr.port == port for connection in connections)

    return mine


class Proxy:
    """Listens on ``port`` of 127.0.0.1 and passes on to ``upstream``, from a thread of its own. A context manager."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self._upstream = upstream
        self._lines: set[_Line] = set()
        self._cut: Whose | None = None
        self._silent: Whose | None = None
        self._delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, whose: Whose = everybodys) -> None:
        """Ends connections, and refuses new ones until ``heal``."""
        self._run(self._break(whose, silently=False))

    def swallow(self, whose: Whose = everybodys) -> None:
        """Connections stay open and new ones are accepted, but nothing arrives on either side until ``heal``."""
        self._run(self._break(whose, silently=True))

    def slow(self, delay_s: float) -> None:
        """What is sent arrives so much later, on either side; 0: at once again."""
        self._delay_s = delay_s

    def heal(self) -> None:
        """New connections are good again; those that were silent are ended."""
        self._run(self._heal())

    def switch(self, upstream: int) -> None:
        """Another server takes over: every connection ends, new ones go there."""
        self._run(self._switch(upstream))

    def _run(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # --- in the thread

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        self._end(everybodys)
        while self._lines:
            await asyncio.sleep(0.01)

    async def _break(self, whose: Whose, *, silently: bool) -> None:
        if silently:
            self._silent = whose
            for line in self._lines:
                line.silent = line.silent or whose(line.port)
        else:
            self._cut = whose
            self._end(whose)

    async def _heal(self) -> None:
        self._cut = self._silent = None
        for line in self._lines:
            if line.silent:
                line.end()

    async def _switch(self, upstream: int) -> None:
        self._upstream = upstream
        self._end(everybodys)

    def _end(self, whose: Whose) -> None:
        for line in self._lines:
            if whose(line.port):
                line.end()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer.get_extra_info("peername")[1])
        line.ends.append(writer)
        self._lines.add(line)
        try:
            if self._cut is not None and self._cut(line.port):
                return
            line.silent = self._silent is not None and self._silent(line.port)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            line.ends.append(far_writer)
            if not line.ended:
                pumps = (self._pump(line, reader, far_writer), self._pump(line, far_reader, writer))
                await asyncio.wait([asyncio.ensure_future(pump) for pump in pumps])
        except OSError:
            pass  # the server is away
        finally:
            line.end()
            self._lines.discard(line)

    async def _pump(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)  # what comes meanwhile goes with the next one
                if not line.silent:
                    writer.write(data)
                    await writer.drain()
        line.end()


class _Line:
    def __init__(self, port: int) -> None:
        self.port = port
        self.silent = False
        self.ended = False
        self.ends: list[asyncio.StreamWriter] = []

    def end(self) -> None:
        self.ended = True
        for writer in self.ends:
            writer.transport.abort()
