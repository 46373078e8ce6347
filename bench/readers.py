"""Many cheap readers of event streams, which only count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

_PATTERN = b"event: chat_delta"
_CONNECTING = 64
_LIMIT_S = 60.0

A = TypeVar("A")
B = TypeVar("B")


class Counter:
    """Deltas that a group of readers got."""

    def __init__(self) -> None:
        self.received = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    def add(self, count: int) -> None:
        self.received += count
        if self.received >= self._wanted:
            self._reached.set()

    async def reach(self, wanted: int) -> None:
        """Waits until so many were got in all. Raises AssertionError when there are more, TimeoutError when fewer."""
        self._wanted = wanted
        self._reached.clear()
        if self.received < wanted:
            async with asyncio.timeout(_LIMIT_S):
                await self._reached.wait()
        assert self.received == wanted, f"{self.received} events instead of {wanted}"


class Reader(asyncio.Protocol):
    """One stream. ``head`` is there when its response has begun and a first event has come."""

    def __init__(self, counter: Counter) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._counter = counter
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.head.done():
            head, _, body = data.partition(b"\r\n\r\n")
            if b"event: " not in body:
                self._rest = data
                return
            self.head.set_result(head)
        count = data.count(_PATTERN)
        self._rest = data[1 - len(_PATTERN) :]  # a name that is cut in two is counted when it is whole
        if count:
            self._counter.add(count)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def open_reader(port: int, path: str, counter: Counter) -> Reader:
    """Waits for the first event."""
    transport, reader = await asyncio.get_running_loop().create_connection(lambda: Reader(counter), "127.0.0.1", port)
    transport.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    async with asyncio.timeout(_LIMIT_S):
        await reader.head
    return reader


async def ask(port: int, path: str) -> int:
    """The status of a GET; 0 when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readline()
        writer.close()
        return int(head.split()[1])
    except (OSError, IndexError):
        return 0


async def post_message(port: int, number: int, session: str | None = None) -> dict[str, str]:
    """Sends a message by a connection of its own; the body of the 202."""
    body = json.dumps({"message": {"text": "bench", "turn_id": f"turn-{number}"}})
    who = f"User-Session-ID: {session}\r\n" if session else ""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /sse/chat HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n{who}"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 202"), answer
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def spread_out(work: Callable[[A], Awaitable[B]], over: Iterable[A], at_once: int = _CONNECTING) -> Sequence[B]:
    """``work`` for each, ``at_once`` at a time; the results in order."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: A) -> B:
        async with gate:
            return await work(item)

    return await asyncio.gather(*map(one, over))
