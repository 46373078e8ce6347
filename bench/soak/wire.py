"""HTTP as a cheap client speaks it: answers, and streams of events that can be cut, stopped and abandoned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
import msgspec
from tests.e2e.client import Event

Address = tuple[str, int]

ANSWER_S = 60.0
_CONNECT_S = 10.0
_DATA = msgspec.json.Decoder()


class Answer:
    """Of one request; with the members of ``httpx.Response`` that the history asks for."""

    def __init__(self, status_code: int, content: bytes) -> None:
        self.status_code = status_code
        self.content = content

    def json(self) -> Any:
        return _DATA.decode(self.content)


class Connection(asyncio.Protocol):
    """One socket, one request at a time. Raises ConnectionError when it is lost before the answer."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._head: asyncio.Future[int] = loop.create_future()
        self._answer: asyncio.Future[Answer] = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._on_event: Callable[[Event], None] | None = None
        self._transport = cast(asyncio.Transport, None)

    async def ask(self, request: bytes) -> Answer:
        async with asyncio.timeout(ANSWER_S):
            self._begin(request)
            return await self._answer

    async def stream(self, request: bytes, on_event: Callable[[Event], None]) -> Answer | None:
        """None when the stream is open: ``on_event`` gets what comes until ``lost``. Otherwise the refusal."""
        async with asyncio.timeout(ANSWER_S):
            self._on_event = on_event
            self._begin(request)
            return await self._answer if await self._head != 200 else None

    def tell(self, request: bytes) -> None:
        """Sends it and does not wait for an answer."""
        self._begin(request)

    def hold(self) -> None:
        """Nothing is read any more, so that the other side cannot write."""
        self._transport.pause_reading()

    def go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self._on_event = None
        self._transport.abort()

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def _begin(self, request: bytes) -> None:
        if self.lost.done() or self._transport.is_closing():
            raise ConnectionError("the connection was lost")
        loop = asyncio.get_running_loop()
        self._head, self._answer = loop.create_future(), loop.create_future()
        self._body.clear()
        self._transport.write(request)

    # --- what asyncio and the parser call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_headers_complete(self) -> None:
        if not self._head.done():
            self._head.set_result(self._parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        self._body += body
        if self._on_event is not None and self._parser.get_status_code() == 200:
            self._events()

    def on_message_complete(self) -> None:
        if not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), bytes(self._body)))
        self._body.clear()
        if self._on_event is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self._head, self._answer):
            if not waiting.done():
                waiting.set_exception(ConnectionError("the connection was lost"))
                waiting.exception()  # nobody may be waiting
        if not self.lost.done():
            self.lost.set_result(None)

    def _events(self) -> None:
        """Gives out what has come whole; no more after ``abort``."""
        end = self._body.rfind(b"\n\n")
        if end < 0:
            return
        whole = bytes(self._body[:end])
        del self._body[: end + 2]
        for block in whole.split(b"\n\n"):
            event = _event(block)
            if event is not None and self._on_event is not None:
                self._on_event(event)


def _event(block: bytes) -> Event | None:
    id_, name, data = None, "message", b""
    for line in block.split(b"\n"):
        if line.startswith(b"data: "):
            data = line[6:]
        elif line.startswith(b"id: "):
            id_ = line[4:].decode()
        elif line.startswith(b"event: "):
            name = line[7:].decode()
    return Event(id_, name, _DATA.decode(data)) if data else None


async def connect(address: Address) -> Connection:
    """Raises ConnectionError."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(Connection, *address)
    except OSError as error:  # TimeoutError is one
        raise ConnectionError(str(error)) from error
    return connection


def request(method: str, path: str, session: str | None, body: object = None, **headers: str) -> bytes:
    """The bytes of a request; ``headers`` with underscores for their hyphens."""
    content = b"" if body is None else msgspec.json.encode(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: soak", f"Content-Length: {len(content)}"]
    if content:
        lines.append("Content-Type: application/json")
    if session is not None:
        lines.append(f"User-Session-ID: {session}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content
