"""The one way in which services are started, listen, and stop: settings, one socket, a drain at SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from kdcube.config.load import Settings, load_service
from kdcube.config.process import ProcessSettings
from kdcube.gateway.connections import BoundedHttp
from kdcube.protocol.errors import ConfigurationError, KDCubeError
from kdcube.telemetry import failpoints
from kdcube.telemetry.logging import configure

SEND_BUFFER_BYTES = 64 * 1024
"""Of each connection, in the kernel: without it a stalled reader takes 4 MB there before a stream hears of it."""
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than the idle time of proxies and load balancers, so that they never send into a socket that is closing."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class OfService(Settings, Protocol):
    """Settings of a service."""

    @property
    def service(self) -> ProcessSettings: ...


S = TypeVar("S", bound=OfService)


def run_service(component: str, settings: type[S], serve: Callable[[S], Coroutine[Any, Any, None]]) -> int:
    """The main of a service: 0 after a drain, 1 with one line when it cannot start, or has broken."""
    try:
        loaded, warnings = load_service(settings, component)
        service = loaded.service
        scope = (service.gateway.tenant, service.gateway.project)
        configure(component, service.instance_id, service.log_level, scope=scope)
        if warnings:
            logger.warning("settings.without_meaning", warnings=warnings)
        failpoints.install(service.failpoints)
        uvloop.run(serve(loaded))
    except KDCubeError as error:
        print(f"kdcube-{component}: {error}", file=sys.stderr)
        return 1
    return 0


def collect_rarely(after_objects: int) -> None:
    """What stands when a service is open is never garbage; afterwards the collector looks as often as is worth it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(after_objects)


def http_config(app: ASGIApp, *, stop_timeout_s: float, http: type[asyncio.Protocol] = BoundedHttp) -> uvicorn.Config:
    """How every service speaks HTTP. ``stop_timeout_s`` is from SIGTERM until the process is killed: half of it is for
    answers that are under way when it does not listen any more.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(stop_timeout_s / 2)),
    )


class DrainingServer(uvicorn.Server):
    """At the first signal it drains and then exits; at the second it exits."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], service: str) -> None:
        super().__init__(config)
        self._drain = drain
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._draining is not None:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        logger.info(f"{self._service}.draining")
        self._draining = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True


class ServerBeside(uvicorn.Server):
    """Serves beside other work, to which the signals belong: ``_serve`` is ``serve`` without their capture."""

    @asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncGenerator[None]:
        """Until left; what is under way then is answered."""
        task = asyncio.create_task(self._serve([listener]), name="http")
        try:
            while not self.started:
                if task.done():
                    task.result()
                    raise KDCubeError("the HTTP server ended at its start")
                await asyncio.sleep(0.01)
            yield
        finally:
            self.should_exit = True
            await task


def listening(host: str, port: int, variable: str) -> socket.socket:
    """A bound socket, whose limit of the send buffer its connections inherit. ``variable`` set the port: see errors."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigurationError(variable, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
