"""One socket and a drain at SIGTERM, for every service that serves people."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import FrameType

import structlog
import uvicorn
from structlog.typing import FilteringBoundLogger

from kdcube.protocol.errors import ConfigurationError

SEND_BUFFER_BYTES = 64 * 1024
"""Of each connection, in the kernel: without it a stalled reader takes 4 MB there before a stream hears of it."""
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than the idle time of proxies and load balancers, so that they never send into a socket that is closing."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


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
