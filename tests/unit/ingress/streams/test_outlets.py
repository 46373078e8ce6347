"""Streams in connections that uvicorn has handed over, in real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from tests.unit.ingress.streams.fakes import delta, stored
from tests.unit.ingress.streams.harness import PATIENCE_S, caller
from uvicorn.server import ServerState

from kdcube.ingress.connections import HandingOver
from kdcube.ingress.streams import Streams
from kdcube.protocol.ids import new_id

pytestmark = pytest.mark.anyio

GET = b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n"


@dataclass
class Server:
    """``GET /TURN_ID`` is the stream of a turn, ``GET /`` a short answer."""

    streams: Streams
    state: ServerState
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """A request is looked at once it is open."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def app(self, scope, receive, send) -> None:
        await self.gate.wait()
        if scope["path"] == "/":
            await PlainTextResponse("short")(scope, receive, send)
            return
        response = await self.streams.turn_stream(Request(scope, receive), caller(), scope["path"][1:])
        await response(scope, receive, send)

    async def connect(self, *paths: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**14)
        self.writers.append(writer)
        for path in paths:
            writer.write(GET % path.encode())
        return reader, writer

    async def none_open(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.streams._none_open.wait()


@asynccontextmanager
async def served(streams: Streams) -> AsyncGenerator[Server]:
    server = Server(streams, ServerState())
    server.gate.set()
    config = uvicorn.Config(
        server.app, http=HandingOver, ws="none", lifespan="off", interface="asgi3", proxy_headers=False, log_config=None
    )
    config.load()
    listener = await asyncio.get_running_loop().create_server(
        lambda: HandingOver(config, server.state, {}), "127.0.0.1", 0
    )
    async with listener:
        server.port = listener.sockets[0].getsockname()[1]
        yield server
        for writer in server.writers:
            writer.transport.abort()
        await streams.shutdown()


@pytest.fixture
async def server(streams) -> AsyncGenerator[Server]:
    async with served(streams) as server:
        yield server


@pytest.fixture
def turn(site):
    turn_id = new_id()
    site.turns.add(stored(turn_id))
    site.valkey.start(turn_id)
    return turn_id


async def chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


async def test_a_stream_outlives_its_request(site, server, turn):
    reader, _ = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in head
        assert b"transfer-encoding: chunked\r\n" in head
        assert b"event: chat_start" in await chunk(reader)
        assert (server.streams.count, len(server.state.tasks), len(server.state.connections)) == (1, 0, 0)
        site.valkey.append(turn, [delta("one"), delta("two")])
        assert (await chunk(reader)).count(b"event: chat_delta") == 2
        site.valkey.finish(turn)
        assert b"event: chat_complete" in await chunk(reader)
        assert await reader.read() == b"0\r\n\r\n"
    await server.none_open()


async def test_a_connection_serves_others_before(site, server, turn):
    reader, _ = await server.connect("", turn)
    async with asyncio.timeout(PATIENCE_S):
        assert b"keep-alive" not in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"short"
        assert b"connection: close\r\n" in await reader.readuntil(b"\r\n\r\n")
        await chunk(reader)
        site.valkey.finish(turn)
        await chunk(reader)
        assert await reader.read() == b"0\r\n\r\n"


async def test_a_client_that_leaves_is_noticed(server, turn):
    reader, writer = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"\r\n\r\n")
        await chunk(reader)
    assert server.streams.count == 1
    writer.close()
    await server.none_open()
    assert len(server.streams._hub) == 0


async def test_a_reader_that_is_slow_gets_everything_and_costs_no_memory(site, server, turn):
    reader, _ = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"\r\n\r\n")
        await chunk(reader)
        (response,) = server.streams._open
        while not response._outlet.paused:
            site.valkey.append(turn, [delta("x" * 1000)] * 50)
            await asyncio.sleep(0)
        before = response._outlet._transport.get_write_buffer_size()
        for _ in range(20):
            site.valkey.append(turn, [delta("y" * 1000)] * 50)
            await asyncio.sleep(0)
        assert response._outlet._transport.get_write_buffer_size() <= before
        site.valkey.finish(turn)
        rest = await reader.read()
    assert rest.endswith(b"0\r\n\r\n")
    assert rest.count(b"y" * 1000) == 1000


async def test_a_reader_that_stalls_is_cut(site, server, turn):
    reader, _ = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"\r\n\r\n")
        (response,) = server.streams._open
        while not response._outlet.paused:
            site.valkey.append(turn, [delta("x" * 1000)] * 50)
            await asyncio.sleep(0)
        await site.later(server.streams, 59)
        assert server.streams.count == 1
        await site.later(server.streams, 2)
        assert server.streams.count == 0
        assert not (await reader.read()).endswith(b"0\r\n\r\n")


async def test_a_drain_closes_what_was_handed_over(server, turn):
    reader, _ = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"\r\n\r\n")
        await chunk(reader)
        await server.streams.shutdown()
        assert b"event: server_shutdown" in await chunk(reader)
        assert await reader.read() == b"0\r\n\r\n"
    assert server.streams.count == 0


async def test_a_source_that_fails_is_no_end(site, server, turn, monkeypatch):
    reader, _ = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"\r\n\r\n")
        await chunk(reader)
        monkeypatch.setattr("kdcube.ingress.streams.projection.sse.KDCubeSse.frame", lambda *_: 1 / 0)
        site.valkey.append(turn, [delta("x")])
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
    await server.none_open()


async def test_a_client_that_left_before_gets_no_stream(server, turn):
    server.gate.clear()
    _, writer = await server.connect(turn)
    async with asyncio.timeout(PATIENCE_S):
        while not server.state.tasks:
            await asyncio.sleep(0)
        (task,) = server.state.tasks
        writer.close()
        while server.state.connections:
            await asyncio.sleep(0)
        server.gate.set()
        await asyncio.wait({task})
    assert task.exception() is None
    assert server.streams.count == 0
