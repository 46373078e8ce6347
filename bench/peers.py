"""What ingress is compared with: servers of the same events, told by the same channels.

    python -m bench.peers sse-starlette|"raw ASGI"|"bare protocol" PORT REDIS_URL

``GET /NUMBER`` is a stream of what is published on ``NAME:NUMBER``: lines of JSON, each an event. All hear it by our
own subscriber, which is cheaper than redis-py. The first two run in the same uvicorn as ingress and give each stream a
queue, as is usual; the last one is no server that anybody would run, but what the message and the socket alone cost.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
import uvloop
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import ASGIApp, Receive, Scope, Send

from kdcube.redis.subscriber import Subscriber, open_subscriber


def channel(name: str, number: int | str) -> str:
    """What the peer of this name hears for one of its streams."""
    return f"{name}:{number}"


class _Queues:
    """What is published, in a queue for each stream."""

    def __init__(self, name: str, subscriber: Subscriber) -> None:
        self._peer = name
        self._subscriber = subscriber

    @contextmanager
    def of(self, scope: Scope) -> Any:
        queue: asyncio.Queue[bytes] = asyncio.Queue()

        def hear(payload: bytes | None) -> None:
            if payload is not None:
                queue.put_nowait(payload)

        name = channel(self._peer, scope["path"][1:])
        self._subscriber.subscribe(name, hear)
        try:
            yield queue
        finally:
            self._subscriber.unsubscribe(name, hear)


def sse_starlette_app(queues: _Queues) -> ASGIApp:
    """An ``EventSourceResponse`` over a generator that yields one ``ServerSentEvent`` after the other."""

    async def events(scope: Scope) -> AsyncIterator[ServerSentEvent]:
        with queues.of(scope) as queue:
            yield ServerSentEvent("{}", event="ready", id="0")
            numbers = itertools.count(1)
            while True:
                for line in (await queue.get()).decode().split("\n"):
                    yield ServerSentEvent(line, event="chat_delta", id=str(next(numbers)))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventSourceResponse(events(scope))(scope, receive, send)

    return app


def raw_asgi_app(queues: _Queues) -> ASGIApp:
    """Bytes put together by hand; all events of a message, and of messages that wait, in one ``send``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with queues.of(scope) as queue:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"id: 0\nevent: ready\ndata: {}\n\n", "more_body": True})
            numbers = itertools.count(1)
            while True:
                lines = (await queue.get()).split(b"\n")
                while not queue.empty():
                    lines += queue.get_nowait().split(b"\n")
                await send({"type": "http.response.body", "body": _frames(lines, numbers), "more_body": True})

    return app


class BareProtocol(asyncio.Protocol):
    """Writes frames to its socket as soon as their message is heard: no task, no queue, no ASGI, no chunks."""

    def __init__(self, name: str, subscriber: Subscriber) -> None:
        self._name = name
        self._subscriber = subscriber
        self._numbers = itertools.count(1)
        self._channel = ""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n"
        self._transport.write(head + b"id: 0\nevent: ready\ndata: {}\n\n")
        self._channel = channel(self._name, data.split(b" ", 2)[1][1:].decode())
        self._subscriber.subscribe(self._channel, self._hear)

    def _hear(self, payload: bytes | None) -> None:
        if payload is not None and self._transport is not None:
            self._transport.write(_frames(payload.split(b"\n"), self._numbers))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._channel:
            self._subscriber.unsubscribe(self._channel, self._hear)


def _frames(lines: list[bytes], numbers: Iterator[int]) -> bytes:
    return b"".join([b"id: %d\nevent: chat_delta\ndata: %b\n\n" % (next(numbers), line) for line in lines])


async def serve(name: str, port: int, redis_url: str) -> None:
    async with open_subscriber(redis_url, name="peer") as subscriber:
        gc.collect()
        gc.freeze()
        if name == "bare protocol":
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: BareProtocol(name, subscriber), "127.0.0.1", port, backlog=2048)
            await server.serve_forever()
        app = {"sse-starlette": sse_starlette_app, "raw ASGI": raw_asgi_app}[name](_Queues(name, subscriber))
        config = uvicorn.Config(
            app,
            port=port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="error",
            backlog=2048,
            timeout_graceful_shutdown=1,
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
