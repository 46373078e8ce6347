"""What ingress is compared with: two servers of the same events, in the same uvicorn, told by the same channels.

    python -m bench.peers sse-starlette|"raw ASGI" PORT REDIS_URL

``GET /NUMBER`` is a stream of what is published on ``NAME:NUMBER``: lines of JSON, each an event. Both hear it by our
own subscriber, which is cheaper than redis-py, and give each stream a queue, as their documentation has it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Any

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
                frames = [b"id: %d\nevent: chat_delta\ndata: %b\n\n" % (next(numbers), line) for line in lines]
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})

    return app


async def serve(name: str, port: int, redis_url: str) -> None:
    async with open_subscriber(redis_url, name="peer") as subscriber:
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
        gc.collect()
        gc.freeze()
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
