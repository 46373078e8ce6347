"""Where the bytes of an open response go: through ASGI, or straight into a connection that the server hands over.

A request costs a server a task, a parser, a scope and a chain of coroutines, and each ``send`` goes through all of
them. A stream that only ever writes needs none of it, so once its head is sent it asks for the connection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, cast

from starlette.types import Receive, Send

HAND_OVER = "kdcube.hand_over"
"""The ASGI extension by which a server gives a connection away."""


class Writer(Protocol):
    """Who writes into an outlet: ``response.EventStream``."""

    def resume(self) -> None:
        """It takes more again."""
        ...

    def gone(self) -> None:
        """The client has left, or the response is over."""
        ...


class Outlet(Protocol):
    """Takes the body of one response. ``paused``: nothing more may be written until the writer is told to resume."""

    paused: bool

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Ends the response, after what was written."""
        ...

    def abort(self, error: Exception | None = None) -> None:
        """Cuts the connection: the client must not take what it has for everything."""
        ...


class ConnectionOutlet(asyncio.Protocol):
    """An outlet that is a connection, behind the head of a chunked response. It is closed at the end."""

    __slots__ = ("_transport", "_writer", "paused")

    def __init__(self, writer: Writer) -> None:
        self.paused = False
        self._writer: Writer | None = writer
        self._transport: asyncio.WriteTransport | None = None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        if self._transport is not None:
            self._transport.write(b"0\r\n\r\n")
            self._transport.close()

    def abort(self, error: Exception | None = None) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.gone()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._writer is not None:
            self._writer.resume()


HandOver: TypeAlias = Callable[[ConnectionOutlet], bool]
"""Makes the connection of a request, whose response has begun, that of the argument. False: the client has left."""


def hand_over_of(scope: Mapping[str, Any]) -> HandOver | None:
    """How the server of this request hands its connection over; None when it does not."""
    return scope.get("extensions", {}).get(HAND_OVER)


class AsgiOutlet:
    """An outlet through ASGI. It takes nothing while a ``send`` is under way."""

    def __init__(self) -> None:
        self.paused = False
        self._data = b""
        self._finished = False
        self._news = asyncio.Event()
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(self, data: bytes) -> None:
        self._data = data
        self.paused = True
        self._news.set()

    def finish(self) -> None:
        self._finished = True
        self._news.set()

    def abort(self, error: Exception | None = None) -> None:
        if self._aborted.done():
            return
        if error is None:
            self._aborted.set_result(None)
        else:
            self._aborted.set_exception(error)

    async def serve(self, writer: Writer, receive: Receive, send: Send) -> None:
        """Sends what is written until the end, or until the client leaves. Raises the error that it was aborted by."""
        sender = asyncio.create_task(self._send(writer, send))
        watcher = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sender, watcher, self._aborted}, return_when=asyncio.FIRST_COMPLETED)
            for one in (self._aborted, sender):
                if one.done():
                    one.result()
        finally:
            sender.cancel()
            watcher.cancel()
            await asyncio.wait({sender, watcher})

    async def _send(self, writer: Writer, send: Send) -> None:
        while not self._finished or self._data:
            data, self._data = self._data, b""
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                self.paused = False
                writer.resume()
            else:
                self._news.clear()
                await self._news.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
