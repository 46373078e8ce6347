"""The composition root of ingress: settings, the application, one socket, a drain at SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import structlog
import uvicorn
import uvloop
from structlog.typing import FilteringBoundLogger

from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load
from kdcube.ingress.app import open_ingress
from kdcube.ingress.connections import HandingOver
from kdcube.protocol.errors import ConfigurationError, KDCubeError
from kdcube.telemetry import failpoints
from kdcube.telemetry.logging import configure

SEND_BUFFER_BYTES = 64 * 1024
"""Of each connection, in the kernel: without it a stalled reader takes 4 MB there before a stream hears of it."""
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than the idle time of proxies and load balancers, so that they never send into a socket that is closing."""

GC_AFTER_OBJECTS = 10_000
"""Requests that are under way at once make and drop thousands of objects, hardly any of them in cycles."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """At the first signal it drains and then exits; at the second it exits."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._draining is not None:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        logger.info("ingress.draining")
        self._draining = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True


async def serve(settings: IngressSettings) -> None:
    """Serves until a signal. Raises ConfigurationError, StoreUnavailable."""
    with _listening(settings.service.host, settings.service.port) as listener:
        async with open_ingress(settings) as ingress:
            config = uvicorn.Config(
                ingress,
                loop="uvloop",
                http=HandingOver,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, int(settings.stop_timeout_s / 2)),
            )
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_AFTER_OBJECTS)
            logger.info("ingress.ready", host=settings.service.host, port=settings.service.port)
            await DrainingServer(config, ingress.drain).serve([listener])


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket, whose limit of the send buffer its connections inherit."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigurationError("CHAT_APP_PORT", f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def main() -> int:
    """``python -m kdcube.ingress``: 0 after a drain, 1 with one line when it cannot start."""
    try:
        settings = load(IngressSettings)
        configure("ingress", settings.service.instance_id, settings.service.log_level)
        failpoints.install(settings.service.failpoints)
        uvloop.run(serve(settings))
    except KDCubeError as error:
        print(f"kdcube-ingress: {error}", file=sys.stderr)
        return 1
    return 0
