"""CPU time of an event on its way from a log's channel to many streams of one ingress process.

    python bench/streams.py [URL] [--http]

One turn of 20,000 deltas, published by stand-ins for the stores, goes to 200 streams: to a ``send`` that only counts,
and with ``--http`` by uvicorn to clients in another process. Prints microseconds of this process's CPU time per event
and stream. The URL is taken for the sake of ``python -m bench`` and not used.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop
from starlette.requests import Request

from kdcube.ingress.caller import Caller
from kdcube.ingress.streams import Streams
from kdcube.postgres.records import StoredTurn
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.heads import head_of
from kdcube.protocol.turns import TurnState, UserType
from kdcube.redis.eventlog import LogPage
from kdcube.redis.feed import FeedPage
from kdcube.redis.keys import Keys
from kdcube.redis.queue import QueuePosition

TURN = "a" * 32
EVENTS, STREAMS = 20_000, 200
BATCHES = (1, 10, 50)
KEYS = Keys("bench", "bench")
CHANNEL = KEYS.log_channel(TURN)
CALLER = Caller("ada", UserType.REGISTERED, (), session_id="s")
HEAD = head_of(
    request_id="0" * 32,
    tenant="bench",
    project="bench",
    user_id="ada",
    user_type="registered",
    session_id="0" * 32,
    conversation_id="0" * 32,
    client_turn_id="turn_1700000000000",
    turn_id=TURN,
    bundle_id="echo@1.0.0",
    bundle_version="0123456789ab",
)
DELTA = encode_line(
    Kind.DELTA,
    "chat.delta",
    ts_ms=1_700_000_000_000,
    attempt=1,
    delta={"text": "word ", "marker": "answer", "index": 12345, "completed": False},
)


class Stores:
    """One user with one turn, which is running and has said nothing yet. All that it says is published."""

    current = 1

    def __init__(self) -> None:
        self.listeners: list[Callable[[bytes | None], None]] = []

    def subscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None:
        if channel == CHANNEL:
            self.listeners.append(listener)
        asyncio.get_running_loop().call_soon(listener, None)

    def unsubscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None:
        if listener in self.listeners:
            self.listeners.remove(listener)

    def publish(self, message: bytes) -> None:
        for listener in self.listeners:
            listener(message)

    async def read(self, id_: str, after: int | None = 0) -> Any:
        if id_ == TURN:
            return LogPage(1, True, True, 1, 0, False, HEAD, 0, [])
        return FeedPage(1, "aaaaaaaa", 1, 1, {TURN: 1}, [])

    async def get(self, turn_id: str, user_id: str | None = None) -> StoredTurn | None:
        return None

    async def find(self, user_id: str, id_: str) -> Any:
        return _Found()

    async def positions(self, turn_ids: object, *, epoch: int) -> list[QueuePosition]:
        return []

    def suspect(self) -> None: ...


class _Found:
    turn_id = TURN


def streams_on(stores: Stores) -> Streams:
    return Streams(
        logs=stores, feeds=stores, queue=stores, subscriber=stores, epoch_watch=stores, turns=stores, keys=KEYS
    )


async def publish(stores: Stores, batch: int, settle: Callable[[], Awaitable[None]]) -> None:
    lines = b"\n".join([DELTA] * batch)
    for tail in range(0, EVENTS, batch):
        stores.publish(b"1 1 %d %d open 0\n%b" % (tail, tail + batch, lines))
        await settle()


async def in_process(batch: int, user: bool) -> float:
    stores = Stores()
    got = 0

    async def send(message: Any) -> None:
        nonlocal got
        got += len(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.get_running_loop().create_future()

    async def settle() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async with streams_on(stores) as streams:
        tasks: list[asyncio.Task[None]] = []
        for _ in range(STREAMS):
            scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
            request = Request(scope)
            opened = streams.user_stream(request, CALLER) if user else streams.turn_stream(request, CALLER, TURN)
            tasks.append(asyncio.create_task((await opened)(scope, receive, send)))
        await asyncio.sleep(0.1)
        used = time.process_time()
        await publish(stores, batch, settle)
        used = time.process_time() - used
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert got > EVENTS * STREAMS * len(DELTA), got
    return used


def read_all(port: int, done: Any) -> None:
    """The clients: counts the events of all connections until each has its ``chat_complete``."""
    sockets: list[socket.socket] = []
    for _ in range(STREAMS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        sockets.append(connection)

    async def one(connection: socket.socket) -> int:
        reader, writer = await asyncio.open_connection(sock=connection)
        events, last = 0, b""
        while b"event: chat_complete" not in last:
            last = last[-16:] + await reader.read(1 << 20)  # 16: a name that is cut in two is counted once
            events += last.count(b"event: chat_delta")
        writer.close()
        return events

    async def every_one() -> int:
        return sum(await asyncio.gather(*map(one, sockets)))

    done.put(asyncio.run(every_one()))


async def over_http(batch: int, user: bool) -> float:
    stores = Stores()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        opened = streams.user_stream(request, CALLER) if user else streams.turn_stream(request, CALLER, TURN)
        await (await opened)(scope, receive, send)

    async with streams_on(stores) as streams:
        listening = socket.create_server(("127.0.0.1", 0), backlog=STREAMS)
        config = uvicorn.Config(app, http="httptools", lifespan="off", access_log=False, log_level="error")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        context = multiprocessing.get_context("spawn")
        done = context.Queue()
        clients = context.Process(target=read_all, args=(listening.getsockname()[1], done))
        clients.start()
        while streams.count < STREAMS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        log = streams._hub._logs[TURN]  # pyright: ignore[reportPrivateUsage]

        async def settle() -> None:
            """Until all have written what there is: streams that fall behind are another measurement."""
            await asyncio.sleep(0)
            while any(getattr(follower, "offset") < log.tail for follower in log.followers):  # noqa: ASYNC110, B009
                await asyncio.sleep(0.001)

        used = time.process_time()
        await publish(stores, batch, settle)
        end = terminal_line(TurnState.COMPLETED, ts_ms=1, attempt=1)
        stores.publish(b"1 1 %d %d closed 0\n%b" % (EVENTS, EVENTS + 1, end))
        events = await asyncio.to_thread(done.get)
        used = time.process_time() - used
        clients.join()
        server.should_exit = True
        await serving
    assert events == EVENTS * STREAMS, events
    return used


def main() -> None:
    print(f"{EVENTS} events to {STREAMS} streams: microseconds of CPU per event and stream")
    ways = {"in process": in_process, "by uvicorn": over_http} if "--http" in sys.argv else {"in process": in_process}
    for way, measure in ways.items():
        for user in (False, True):
            for batch in BATCHES:
                each = uvloop.run(measure(batch, user)) / EVENTS / STREAMS * 1e6
                print(f"{way}, {'user' if user else 'turn'} streams, {batch:2} at a time: {each:6.2f}", flush=True)


if __name__ == "__main__":
    main()
