"""A real nginx with a rendered configuration, and stand-ins for the services behind it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.eventually import eventually

from kdcube.config.gateway import GatewayConfig
from kdcube.deploy.proxy import Fixed, ProxyFacts, body_limits
from kdcube.deploy.render.proxy import render_proxy
from kdcube.deploy.routes import Service
from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.process import Program, unprivileged_account

LOOPBACK = ip_address("127.0.0.1")
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a service was sent: the target as it is written, headers with lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter


Answer = Callable[[Request], Awaitable[None]]


@dataclass
class StandIn:
    """A service that keeps what it was sent."""

    name: str
    port: int
    requests: list[Request] = field(default_factory=list)
    extra_headers: str = ""
    answer: Answer | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """As when it is killed: whoever is connected hears of it."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip("\r\n").split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, target, headers, body, writer)
                self.requests.append(request)
                if self.answer is not None:
                    await self.answer(request)
                    continue
                told = self.name.encode()
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Length: {len(told)}\r\n{self.extra_headers}\r\n".encode() + told
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class Nginx:
    """It runs as `kdcube up --proxy` runs it: unprivileged, in the foreground."""

    def __init__(self, folder: Path, facts: ProxyFacts) -> None:
        self.folder = folder
        self.facts = facts
        self.port = facts.port
        self.log = folder / "nginx.log"
        self._process: subprocess.Popen[bytes] | None = None
        binary = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if binary is None:
            pytest.fail("nginx is not installed: run the tests by `make test`, or apt-get install nginx")
        self._argv = (binary, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"))
        self._account = unprivileged_account(folder)
        self.log.touch()
        if self._account is not None:
            for path in (folder, self.log):
                os.chown(path, self._account.uid, self._account.gid)

    def write(self, facts: ProxyFacts) -> None:
        (self.folder / "nginx.conf").write_text(render_proxy(facts))

    async def start(self) -> None:
        self.write(self.facts)
        self._process = process.start(Program(self._argv, account=self._account), self.log)
        await self._listens()

    async def restart(self) -> None:
        """kill -9, and again when nothing is left of it that could still take a connection."""
        assert self._process is not None
        left = psutil.Process(self._process.pid).children(recursive=True)
        self.close(signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, left, PATIENCE_S)
        await self.start()

    async def reload(self, facts: ProxyFacts) -> None:
        """Returns when workers of the new configuration have begun."""
        assert self._process is not None
        children = self._children()
        self.write(facts)
        self._process.send_signal(signal.SIGHUP)

        async def begun() -> bool:  # nginx says nothing of a reload but in a log that holds what is critical only
            return bool(self._children() - children)

        await eventually(begun, "new workers have begun", within_s=PATIENCE_S)

    def close(self, sign: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            process.stop(self._process, sign, PATIENCE_S)
            self._process = None

    def _children(self) -> set[str]:
        assert self._process is not None
        return set(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split())

    async def _listens(self) -> None:
        async def accepts() -> bool:  # as above: it tells nobody that it listens
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionError:
                return False
            writer.close()
            return True

        await eventually(accepts, "nginx listens", within_s=PATIENCE_S)

    async def send(self, request: str | bytes) -> tuple[int, dict[str, str], bytes]:
        """One request, written as it is, on a connection of its own: status, headers, body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request if isinstance(request, bytes) else request.encode("latin-1"))
            async with asyncio.timeout(PATIENCE_S):
                answer = b""
                with suppress(ConnectionResetError):  # behind an answer that came before all was sent
                    while part := await reader.read(65_536):
                        answer += part
                return parse(answer)
        finally:
            writer.close()

    async def get(self, target: str, *headers: str, method: str = "GET", host: str = "localhost") -> Any:
        lines = "".join(f"{header}\r\n" for header in headers)
        return await self.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n")


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(headers) == len(lines), f"a header is said twice: {lines}"
    return int(first.split(" ")[1]), headers, body


@dataclass(frozen=True)
class Front:
    """The proxy and what stands behind it; of ingress there are two processes."""

    nginx: Nginx
    ingress: StandIn
    other_ingress: StandIn
    proc: StandIn
    ui: StandIn
    proxylogin: StandIn

    @property
    def services(self) -> list[StandIn]:
        return [self.ingress, self.other_ingress, self.proc, self.ui, self.proxylogin]

    @property
    def sent(self) -> list[Request]:
        """What any of them was sent."""
        return [request for service in self.services for request in service.requests]

    def facts(self, **changes: Any) -> ProxyFacts:
        fixed = {
            name: getattr(self.nginx.facts, name) for name in ("folder", "services", "body_bytes", "listen", "port")
        }
        return ProxyFacts(**{**fixed, **changes})


OpenFront = Callable[..., Any]


@pytest.fixture
def open_front(tmp_path: Path) -> OpenFront:
    """``async with open_front(limits=...) as front``; without ``absent``."""

    @asynccontextmanager
    async def opened(absent: tuple[Service, ...] = (), **changes: Any) -> AsyncGenerator[Front]:
        port = free_port(1, 2, 3, 4, 5, 6)
        names = ("ingress", "ingress", "proc", "ui", "proxylogin")
        standing = [StandIn(name, port + 1 + number) for number, name in enumerate(names)]
        at = {
            service: Fixed(tuple((LOOPBACK, each.port) for each in standing if each.name == service.value))
            for service in Service
            if service not in absent
        }
        facts = ProxyFacts(
            **{
                "folder": tmp_path / "nginx",
                "services": at,
                "body_bytes": body_limits(GatewayConfig(tenant="t", project="p")),
                "listen": (LOOPBACK,),
                "port": port,
                **changes,
            }
        )
        facts.folder.mkdir()
        nginx = Nginx(facts.folder, facts)
        async with AsyncExitStack() as stack:
            for service in standing:
                await service.start()
                stack.push_async_callback(service.stop)
            stack.callback(nginx.close)
            await nginx.start()
            yield Front(nginx, *standing)

    return opened
