"""What a real nginx does with the rendered configuration."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import httpx
import pytest
from tests.eventually import eventually
from tests.integration.deploy.conftest import LOOPBACK, Request, parse
from tests.unit.deploy.test_render_proxy import VARIANTS

from kdcube.deploy.certificates import self_signed
from kdcube.deploy.proxy import AddressLimits, Named, Timeouts, Tls
from kdcube.deploy.render.proxy import render_proxy
from kdcube.deploy.routes import Service
from kdcube.local.ports import free_port

pytestmark = pytest.mark.anyio
PATIENCE_S = 20.0


@pytest.fixture
def certificate(tmp_path):
    """Files of a certificate for localhost, that the proxy's account may read."""
    made = self_signed(["localhost", "127.0.0.1"], now=datetime.now(UTC))
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    for path, content in zip(paths, (made.certificate, made.key), strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize("name", VARIANTS)
async def test_nginx_takes_every_variant(name, tmp_path, certificate):
    rendered = render_proxy(VARIANTS[name]).replace("/var/lib/proxy", str(tmp_path))
    for given, ours in zip(("/etc/kdcube/certificate.pem", "/etc/kdcube/key.pem"), certificate, strict=True):
        rendered = rendered.replace(given, str(ours))
    (tmp_path / "nginx.conf").write_text(rendered)
    binary = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    done = subprocess.run(
        [str(binary), "-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


# --- what is passed on


FORGED = (
    "X-Forwarded-For: 203.0.113.7",
    "X-Real-IP: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "Forwarded: for=203.0.113.7;proto=https",
    "X-Forwarded-User: root",
    "Remote-User: root",
    "X-Original-URL: /metrics",
    "X-Rewrite-URL: /metrics",
    "X-HTTP-Method-Override: DELETE",
    "X_Forwarded_For: 203.0.113.7",
    "Proxy: http://evil.example",
    "Upgrade: h2c",
)


async def test_forged_headers_end_here(open_front):
    async with open_front() as front:
        await front.nginx.get("/chatbot/api/x", *FORGED, "Authorization: Bearer mine", "Cookie: a=b", "X-ID-Token: t")
        (request,) = front.sent
        told = request.headers
        assert (told["x-forwarded-for"], told["x-real-ip"], told["x-forwarded-proto"]) == ("127.0.0.1",) * 2 + ("http",)
        assert (told["authorization"], told["cookie"], told["x-id-token"]) == ("Bearer mine", "a=b", "t")
        assert told["host"] == "localhost"
        allowed = {"host", "x-request-id", "x-real-ip", "x-forwarded-for", "x-forwarded-proto"}
        assert set(told) == allowed | {"authorization", "cookie", "x-id-token"}


async def test_trusted_proxies_are_believed_and_only_they(open_front):
    networks = (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"))
    async with open_front(trusted_proxies=networks) as front:
        given = "X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.1.2.3", "X-Forwarded-Proto: https"
        _, headers, _ = await front.nginx.get("/chatbot/api/x", *given)
        assert front.sent[0].headers["x-forwarded-for"] == "203.0.113.7"
        assert front.sent[0].headers["x-forwarded-proto"] == "https"
        assert "strict-transport-security" in headers
        await front.nginx.get("/chatbot/api/x", "X-Forwarded-Proto: javascript")
        assert front.sent[-1].headers["x-forwarded-proto"] == "http"


async def test_request_ids(open_front):
    async with open_front() as front:
        _, headers, _ = await front.nginx.get("/chatbot/api/x", "X-Request-ID: a-sane-id-1")
        assert headers["x-request-id"] == front.sent[0].headers["x-request-id"] == "a-sane-id-1"
        _, headers, _ = await front.nginx.get("/chatbot/api/x", 'X-Request-ID: "insane"; <id>')
        assert headers["x-request-id"] == front.sent[-1].headers["x-request-id"]
        assert len(headers["x-request-id"]) == 32


async def test_security_headers_are_said_once(open_front):
    async with open_front() as front:
        for service in front.services:
            service.extra_headers = "X-Frame-Options: DENY\r\nServer: secret/1.2\r\nX-Accel-Redirect: /metrics\r\n"
        api = ("/chatbot/api/x", "/chatbot/api/integrations/x", "/nothing", "/health")
        for path in (*api, "/chatbot/", "/auth/login"):
            _, headers, _ = await front.nginx.get(path)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["server"] == "nginx"
            policy = headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert ("default-src 'none'" in policy) is (path in api)
            assert "strict-transport-security" not in headers
        front.ui.extra_headers = "Content-Security-Policy: default-src 'none'; script-src 'nonce-1'\r\n"
        _, headers, _ = await front.nginx.get("/chatbot/")
        assert headers["content-security-policy"] == "default-src 'none'; script-src 'nonce-1'"


async def test_no_token_is_logged(open_front):
    async with open_front() as front:
        await front.proc.stop()
        for path in ("/chatbot/api/sse/stream", "/chatbot/api/integrations/x", "//crooked", "/nothing"):
            await front.nginx.get(f"{path}?bearer_token=secret-in-query", "Cookie: a=secret-in-cookie")
        front.nginx.close()
        log = front.nginx.log.read_text()
        assert '"path": "/chatbot/api/sse/stream"' in log
        assert '"path": "/chatbot/api/integrations/x"' in log
        assert "secret" not in log


# --- sizes and times


async def test_bodies_are_limited_as_the_services_limit_them(open_front):
    sizes = {**dict.fromkeys(Service, 4096), Service.PROC: 8192}
    async with open_front(body_bytes=sizes) as front:
        post = "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}"
        for path, size in (("/chatbot/api/x", 4096), ("/chatbot/api/integrations/x", 8192)):
            assert (await front.nginx.send(post.format(path, size, "x" * size)))[0] == 200
            status, _, body = await front.nginx.send(post.format(path, size + 1, "x" * 10))
            assert (status, json.loads(body)["error"]) == (413, "too_large")
        assert [len(request.body) for request in front.sent] == [4096, 8192]
        front.ingress.requests.clear()
        chunked = "POST /chatbot/api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        status, _, _ = await front.nginx.send(chunked + "1000\r\n" + "x" * 4096 + "\r\n1\r\nx\r\n0\r\n\r\n")
        assert status == 413
        assert front.ingress.requests == []


async def test_headers_are_limited(open_front):
    async with open_front() as front:
        assert (await front.nginx.get("/chatbot/api/x", "Cookie: a=" + "x" * 7000))[0] == 200
        assert (await front.nginx.get("/chatbot/api/x", "Cookie: a=" + "x" * 9000))[0] == 400
        assert (await front.nginx.get("/chatbot/api/x", *[f"X-{n}: " + "x" * 7000 for n in range(6)]))[0] == 400
        assert (await front.nginx.get("/chatbot/api/" + "x" * 9000))[0] == 414
        assert len(front.sent) == 1


async def test_slow_clients_are_cut(open_front):
    async with open_front(timeouts=Timeouts(header=1, body=1)) as front:
        for sent in (
            b"GET /chatbot/api/x HTTP/1.1\r\nHost: loc",
            b"POST /chatbot/api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nxxx",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.nginx.port)
            writer.write(sent)
            async with asyncio.timeout(PATIENCE_S):
                answer = b""
                with suppress(ConnectionResetError):
                    answer = await reader.read()
            assert b" 200 " not in answer
            writer.close()
        assert front.sent == []


async def test_requests_of_one_address_are_limited(open_front):
    limits = AddressLimits(requests_per_s=1, burst=5)
    trusted = (ip_network("127.0.0.1/32"),)
    async with open_front(limits=limits, trusted_proxies=trusted) as front:

        async def statuses(*addresses: str) -> list[int]:
            each = [front.nginx.get("/chatbot/api/x", f"X-Forwarded-For: {address}") for address in addresses]
            return [status for status, _, _ in await asyncio.gather(*each)]

        found = await statuses(*["203.0.113.7"] * 30)
        assert found.count(200) >= 6
        assert set(found) == {200, 429}
        assert await statuses("203.0.113.8") == [200]  # another one is free
        found = await statuses(*[f"2001:db8:1:2::{n:x}" for n in range(30)])
        assert 429 in found  # one user has all of a /64
        assert await statuses("2001:db8:1:3::1") == [200]
        _, headers, body = await front.nginx.get("/chatbot/api/x", "X-Forwarded-For: 203.0.113.7")
        if json_error(body) == "rate_limited":
            assert headers["retry-after"] == "1"


def json_error(body: bytes) -> str | None:
    try:
        return json.loads(body)["error"]
    except ValueError:
        return None


async def test_connections_of_one_address_are_limited(open_front):
    async with open_front(limits=AddressLimits(connections=3)) as front:
        gate = Gate()
        front.ingress.answer = front.other_ingress.answer = gate
        async with asyncio.TaskGroup() as group:
            held = [group.create_task(front.nginx.get("/chatbot/api/x")) for _ in range(3)]
            for _ in held:
                await gate.next()
            status, headers, body = await front.nginx.get("/chatbot/api/x")
            assert (status, json_error(body), headers["retry-after"]) == (429, "rate_limited", "1")
            gate.open.set()
        assert [task.result()[0] for task in held] == [200] * 3


class Gate:
    """Answers only when it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self._came: asyncio.Queue[Request] = asyncio.Queue()

    async def __call__(self, request: Request) -> None:
        self._came.put_nowait(request)
        await self.open.wait()
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def next(self) -> Request:
        return await asyncio.wait_for(self._came.get(), PATIENCE_S)


# --- streams


class EventSource:
    """Sends numbered events when it is told to, beginning behind Last-Event-ID."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self.last = 0
        self.opened = asyncio.Event()

    async def __call__(self, request: Request) -> None:
        self.writer = request.writer
        self.last = int(request.headers.get("last-event-id", 0))
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.opened.set()
        await asyncio.Event().wait()

    def say(self) -> bytes:
        assert self.writer is not None
        self.last += 1
        event = f"id: {self.last}\ndata: {self.last}\n\n".encode()
        self.writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        return event


@asynccontextmanager
async def streaming(front, *headers: str) -> AsyncGenerator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.nginx.port)
    lines = "".join(f"{header}\r\n" for header in headers)
    writer.write(f"GET /chatbot/api/sse/stream HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()


async def next_event(reader: asyncio.StreamReader, event: bytes) -> None:
    """Fails unless this event comes, while nothing is sent behind it that could push it."""
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readuntil(event))[-len(event) :] == event


async def test_events_come_one_by_one_and_resume_behind_a_proxy_that_died(open_front):
    async with open_front() as front:
        source = EventSource()
        front.ingress.answer = front.other_ingress.answer = source
        async with streaming(front) as reader:
            await source.opened.wait()
            for _ in range(3):
                await next_event(reader, source.say())
            await front.nginx.restart()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await next_event(reader, b"nothing")
        source.opened.clear()
        async with streaming(front, "Last-Event-ID: 3") as reader:
            await asyncio.wait_for(source.opened.wait(), PATIENCE_S)
            event = source.say()
            assert event == b"id: 4\ndata: 4\n\n"
            await next_event(reader, event)


async def test_a_reload_cuts_no_stream(open_front):
    async with open_front() as front:
        source = EventSource()
        front.ingress.answer = front.other_ingress.answer = source
        async with streaming(front) as reader:
            await source.opened.wait()
            await next_event(reader, source.say())
            absent = {service: at for service, at in front.nginx.facts.services.items() if service is not Service.UI}
            await front.nginx.reload(front.facts(services=absent))

            async def is_gone() -> bool:  # old workers may still take a connection, and do not say when they do no more
                return (await front.nginx.get("/chatbot/"))[0] == 404

            await eventually(is_gone, "the new configuration answers", within_s=PATIENCE_S)
            await next_event(reader, source.say())


# --- services that are away


async def test_a_dead_process_is_not_noticed(open_front):
    async with open_front() as front:
        await front.other_ingress.stop()
        for method in ("GET", "POST"):
            for _ in range(6):
                assert (await front.nginx.get("/chatbot/api/x", method=method))[0] == 200
        assert len(front.ingress.requests) == 12


async def test_what_was_sent_is_repeated_only_where_that_is_harmless(open_front):
    async with open_front() as front:

        async def dies(request: Request) -> None:
            request.writer.transport.abort()

        front.other_ingress.answer = dies
        statuses = [(await front.nginx.get("/chatbot/api/x", method="POST"))[0] for _ in range(6)]
        assert set(statuses) == {200, 502}  # each worker of nginx takes turns by itself
        assert len(front.sent) == 6
        assert [(await front.nginx.get("/chatbot/api/x"))[0] for _ in range(6)] == [200] * 6
        answers = [await front.nginx.get("/chatbot/api/x", method="POST") for _ in range(6)]
        answer = next(answer for answer in answers if answer[0] == 502)
        assert (json_error(answer[2]), answer[1]["retry-after"]) == ("bad_gateway", "1")


async def test_a_service_that_is_down_is_found_again(open_front):
    async with open_front() as front:
        await front.proc.stop()
        for _ in range(3):
            status, _, body = await front.nginx.get("/chatbot/api/integrations/x")
            assert (status, json_error(body)) == (502, "bad_gateway")
        await front.proc.start()
        assert (await front.nginx.get("/chatbot/api/integrations/x"))[0] == 200


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an address with ``address``."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.asked: list[bytes] = []

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr) -> None:
        self.asked.append(data)
        wants_ipv4 = data[-4:-2] == b"\x00\x01"
        head = data[:2] + b"\x81\x80\x00\x01" + (b"\x00\x01" if wants_ipv4 else b"\x00\x00") + b"\x00\x00\x00\x00"
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04" + ip_address(self.address).packed
        self.transport.sendto(head + data[12:] + (record if wants_ipv4 else b""), addr)


async def test_names_are_resolved_by_the_resolver(open_front):
    """At each use, and not once at start: a name that is not known yet keeps nothing from starting."""
    loop = asyncio.get_running_loop()
    port = free_port()
    transport, names = await loop.create_datagram_endpoint(NameServer, ("127.0.0.1", port))
    try:
        async with open_front() as front:
            named = {**front.nginx.facts.services, Service.PROC: Named("proc.kdcube.local", front.proc.port)}
            rendered = front.facts(services=named, resolver=(LOOPBACK,))
            text = render_proxy(rendered).replace("resolver 127.0.0.1 valid=10s", f"resolver 127.0.0.1:{port} valid=1s")
            front.nginx.close()
            front.nginx.write = lambda _: (front.nginx.folder / "nginx.conf").write_text(text)
            await front.nginx.start()
            assert names.asked == []
            assert (await front.nginx.get("/chatbot/api/integrations/x?y=1"))[0] == 200
            assert front.proc.requests[0].target == "/chatbot/api/integrations/x?y=1"
            names.address = "127.0.0.9"  # nobody is there

            async def moved() -> bool:  # a name is asked for again by a request only, once its time is over
                return (await front.nginx.get("/chatbot/api/integrations/x"))[0] != 200

            await eventually(moved, "the name is asked for again", within_s=PATIENCE_S)
            assert len(names.asked) > 1
    finally:
        transport.close()


# --- TLS


async def test_tls_with_a_self_signed_certificate(open_front, certificate):
    tls = Tls(*certificate, port=free_port(), lasting=False)
    async with open_front(tls=tls) as front:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(f"https://localhost:{tls.port}/chatbot/api/x")
            assert (answer.status_code, answer.text) == (200, "ingress")
            assert "strict-transport-security" not in answer.headers
            assert front.sent[0].headers["x-forwarded-proto"] == "https"
            assert front.sent[0].headers["host"] == f"localhost:{tls.port}"
            assert (await client.get(f"http://localhost:{front.nginx.port}/health")).json()["service"] == "proxy"
            answer = await client.post(f"http://localhost:{front.nginx.port}/chatbot/api/x?y=1", content="z")
            assert answer.status_code == 308
            assert answer.headers["location"] == f"https://localhost:{tls.port}/chatbot/api/x?y=1"
        assert len(front.sent) == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_protocols_are_refused(open_front, certificate):
    tls = Tls(*certificate, port=free_port())
    async with open_front(tls=tls):
        context = ssl.create_default_context(cafile=str(certificate[0]))
        context.set_ciphers("ALL:@SECLEVEL=0")
        for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
            try:
                _, writer = await asyncio.open_connection("localhost", tls.port, ssl=context)
            except ssl.SSLError:
                assert version is ssl.TLSVersion.TLSv1_1
            else:
                assert writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                writer.close()


async def test_http_2_over_tls(open_front, certificate):
    """Browsers keep many streams on one connection; its pseudo-headers are judged as those of HTTP/1.1 are."""
    tls = Tls(*certificate, port=free_port())
    async with open_front(tls=tls) as front:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        context.set_alpn_protocols(["h2"])
        for path, answered in ((b"/chatbot/api/x", True), (b"/chatbot/api/../metrics", False)):
            reader, writer = await asyncio.open_connection("localhost", tls.port, ssl=context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            literal = b"".join(
                b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
                for name, value in (
                    *((b":method", b"GET"), (b":scheme", b"https"), (b":path", path)),
                    (b":authority", b"localhost"),
                )
            )
            settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
            headers = len(literal).to_bytes(3, "big") + b"\x01\x05\x00\x00\x00\x01" + literal
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    size, kind, *_ = int.from_bytes(await reader.readexactly(3), "big"), *(await reader.readexactly(6))
                    content = await reader.readexactly(size)
                    if kind == 0 and content:
                        break
            assert (content == b"ingress") is answered, content
            writer.close()
        assert len(front.sent) == 1


def test_an_answer_that_says_a_header_twice_is_noticed():
    with pytest.raises(AssertionError):
        parse(b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\n\r\n")
