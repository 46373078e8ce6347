"""Requests that are made to hurt: heads and bodies without end, slowly or all at once, and injected header fields."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from tests.integration.ingress.asking import body, refused, sent

from kdcube.gateway import reading
from kdcube.gateway.connections import HEAD_MAX_BYTES, HEAD_MAX_FIELDS
from kdcube.gateway.serving import listening
from kdcube.ingress.connections import HandingOver

pytestmark = pytest.mark.anyio

_SEND = b"POST /sse/chat HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer alice-token\r\n"
_REQUEST = b"GET /health HTTP/1.1\r\nHost: test\r\n"


class Impatient(HandingOver):
    head_s = 0.3
    linger_s = 0.3


@pytest.fixture
async def port(bench: Any) -> AsyncIterator[int]:
    """Of an ingress on a socket, which waits for heads for a moment only."""
    with listening("127.0.0.1", 0, "PORT") as listener:
        config = uvicorn.Config(
            bench.ingress, http=Impatient, ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0)
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def answer(port: int, *pieces: bytes, then: bytes = b"") -> bytes:
    """Everything that comes back until the server closes; ``then`` is sent again and again while it does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while then and not answered.done():
            writer.write(then)
            await writer.drain()
            await asyncio.wait({answered}, timeout=0.05)
    except ConnectionError:
        pass
    try:
        async with asyncio.timeout(20):
            return await answered
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1])


async def test_a_head_without_end_is_refused_before_it_takes_memory(port: int) -> None:
    before = psutil.Process().memory_info().rss
    for begin, more in ((_REQUEST + b"X: ", b"x" * 65_536), (b"GET /", b"x" * 65_536), (b"", b"x" * 65_536)):
        raw = await answer(port, begin, *[more] * 200)
        assert not raw or status(raw) in (400, 431)
    assert psutil.Process().memory_info().rss - before < 32 * 1024 * 1024


async def test_large_and_many_header_fields_are_refused(port: int) -> None:
    large = b"X-Large: " + b"x" * HEAD_MAX_BYTES + b"\r\n"
    many = b"".join(b"X-%d: 1\r\n" % n for n in range(HEAD_MAX_FIELDS))
    for fields in (large, many):
        assert status(await answer(port, _REQUEST, fields, b"\r\n")) == 431
        assert status(await answer(port, _REQUEST + fields + b"\r\n")) == 431
    allowed = b"X-Large: " + b"x" * (HEAD_MAX_BYTES // 2) + b"\r\nConnection: close\r\n\r\n"
    assert status(await answer(port, _REQUEST, allowed)) == 200


async def test_a_head_that_trickles_is_ended(port: int) -> None:
    raw = await answer(port, _REQUEST, then=b"X: 1\r\n")
    assert not raw or status(raw) == 408  # what comes after the close may take the answer along
    assert status(await answer(port, _REQUEST + b"X: 1\r\n")) == 408
    assert status(await answer(port)) == 408  # nothing at all
    kept = _REQUEST + b"\r\n"
    raw = await answer(port, kept, b"GET /hea", then=b"")  # the second request of a connection
    assert raw.count(b"HTTP/1.1") == 2 and b"408" in raw


async def test_a_body_that_trickles_is_ended_and_its_connection_closed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "GRACE_S", 0.3)
    head = _SEND + b"Content-Length: 900000\r\n\r\n"
    raw = await answer(port, head, b'{"mess')
    assert status(raw) == 408 and b'"error":"too_slow"' in raw
    chunked = head.replace(b"Content-Length: 900000", b"Transfer-Encoding: chunked")
    for trickle in ((head, b" "), (chunked, b"1\r\n \r\n")):
        raw = await answer(port, trickle[0], then=trickle[1])
        assert not raw or status(raw) == 408  # what comes after the close may take the answer along


async def test_a_body_that_is_too_large_is_not_read(port: int) -> None:
    head = _SEND + b"Content-Length: %d\r\n\r\n"
    raw = await answer(port, head % 10**12)
    assert status(raw) == 413
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    chunked = head.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
    raw = await answer(port, chunked, *[chunk] * 20, then=chunk)
    assert not raw or status(raw) == 413  # the socket is closed on what still comes, which may take the answer along


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 500_000,
        b'{"message":' * 50_000,
        b'{"message":{"text":"x","payload":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_002,
        b'{"message":{"text":"x","payload":{"a":' + b"9" * 800_000 + b"}}}",
        b'{"message":{"text":"x","payload":{"a":1e999999999}}}',
        b'{"message":{"text":"' + b"\\u0000" * 150_000 + b'"}}',
        b'{"message":{"text":"x","payload":{' + b",".join(b'"%d":[]' % n for n in range(90_000)) + b"}}}",
    ],
    ids=["open lists", "open objects", "deep payload", "digits", "exponent", "escapes", "keys"],
)
async def test_bombs_in_json_are_refused(bench: Any, bomb: bytes) -> None:
    alice = await bench.client("alice-token")
    for path in ("/sse/chat", "/sse/cancel", "/v1/chat/completions"):
        response = await alice.post(path, content=bomb)
        assert response.status_code in (400, 413), (path, response.text[:200])
    form = {"message": (None, bomb)}
    assert (await alice.post("/sse/chat", files=form)).status_code in (400, 413)
    assert await bench.turns.unfinished() == []
    await sent(alice)


async def test_nothing_that_a_client_sends_becomes_a_header_field(port: int) -> None:
    evil = "x\r\nSet-Cookie: evil=1\r\nX-Evil: 1"
    encoded = evil.replace("\r", "%0d").replace("\n", "%0a").replace(" ", "%20")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answers = [
            await client.get(f"/profile?user_session_id={encoded}"),
            await client.get(f"/turns/{encoded}/stream"),
            await client.get(f"/conversations/{encoded}", headers={"Authorization": "Bearer alice-token"}),
            await client.get("/profile", headers={"X-Request-ID": "a" * 8 + "\t; evil", "Origin": "evil: 1"}),
            await client.post("/sse/chat", json=body(turn_id=evil), headers={"Idempotency-Key": "a\tb"}),
            await client.get(f"/{encoded}"),
        ]
    for response in answers:
        assert "x-evil" not in response.headers and "evil=1" not in response.headers.get("set-cookie", "")
        assert "evil" not in response.headers["x-request-id"]
    raw = await answer(port, _REQUEST + b"X-Request-ID: aaaaaaaa\rX-Evil: 1\r\nConnection: close\r\n\r\n")
    assert b"X-Evil" not in raw and b"x-evil" not in raw


async def test_requests_that_are_read_in_two_ways_are_refused(port: int) -> None:
    post = b"POST /sse/cancel HTTP/1.1\r\nHost: test\r\n"
    for fields in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ):
        raw = await answer(port, post + fields + b"\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert status(raw) == 400 and raw.count(b"HTTP/1.1") == 1, (fields, raw)


async def test_problems_of_bodies_are_told_in_the_one_shape(bench: Any) -> None:
    alice = await bench.client("alice-token")
    told = refused(await alice.post("/sse/chat", content=json.dumps(body("x" * 2_000_000))), 413, "too_large")
    assert "1048576" in told["message"]


async def test_a_trailer_is_no_header(port: int) -> None:
    """Behind a proxy that takes tokens or addresses out of heads, and lets trailers pass."""
    chunked = b"POST /sse/chat HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n" % (len(content := json.dumps(body()).encode()), content)
    for trailer, user in ((b"Authorization: Bearer root-token\r\n", b'"anonymous"'), (b"", b'"anonymous"')):
        told = await answer(port, chunked + trailer + b"\r\n")
        assert status(told) == 202 and b'"user_type":' + user in told
    good = chunked.replace(b"Connection", b"Authorization: Bearer alice-token\r\nConnection")
    told = await answer(port, good + b"Authorization: Bearer root-token\r\nIdempotency-Key: bad key\r\n\r\n")
    assert status(told) == 202 and b'"registered"' in told


@pytest.mark.parametrize("begin", [b"0\r\nX: ", b"1;x=", b"1\r\n{\r\n0\r\n"])
async def test_what_is_no_body_takes_no_memory(port: int, begin: bytes) -> None:
    """Trailers without end, and extensions of chunks, which the parser keeps or passes over."""
    chunked = _SEND + b"Transfer-Encoding: chunked\r\n\r\n" + begin
    then = b"x" * 65_536 if not begin.endswith(b"0\r\n") else b"X: y\r\n" * 10_000
    before = psutil.Process().memory_info().rss
    told = await answer(port, chunked, then=then)
    assert not told or status(told) == 431
    assert psutil.Process().memory_info().rss - before < 32 * 1024 * 1024


async def test_a_connection_takes_requests_without_bodies_for_ever(port: int) -> None:
    """What is bounded is one message: heads of complete ones do not add up."""
    request = _REQUEST + b"X: %b\r\n\r\n" % (b"y" * 1_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(2 * HEAD_MAX_BYTES // len(request)):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert status(head) == 200
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
    finally:
        writer.close()
