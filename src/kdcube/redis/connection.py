"""A connection to Valkey that pipelines by itself, fails fast while the server is away, and comes back by itself.

Hot paths await ``connection.call(...)``. What blocks on the server (BLPOP) has a socket of its own, as replies are
ordered: ``BlockingConnection``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.breaker import Breaker
from kdcube.protocol.errors import KDCubeError, StoreUnavailable
from kdcube.redis.endpoint import Endpoint, parse_endpoint
from kdcube.redis.wire import STORE, Argument, ServerError, Wire, open_wire

__all__ = ["BlockingConnection", "Connection", "ServerError", "open_blocking_connection", "open_connection"]

_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 1.0
_IDLE_PROBE_S = 5.0
"""A connection on which nothing is under way proves that often that it still has a server."""
_HANDSHAKE_MAX_S = 5.0
_BLOCKING_MARGIN_S = 2.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Connection:
    """One socket at a time to one server. Made by ``open_connection``.

    ``on_connect`` holds listeners that are called after each reconnect, before anything else can be sent (the first
    connect is over when ``open_connection`` yields). ``hello`` is the server's latest answer to HELLO.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        deadline_s: float | None,
        max_in_flight: int,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._deadline_s = deadline_s
        self._handshake_s = min(deadline_s or _HANDSHAKE_MAX_S, _HANDSHAKE_MAX_S)
        self._max_in_flight = max_in_flight
        self._on_push = on_push
        self._wire = self._new_wire()
        self._connected = asyncio.Event()
        self.breaker = Breaker(STORE, own_probe=True)
        """Open while there is no connection: calls then fail at once, and each attempt to connect is a probe."""
        self.on_connect: list[Callable[[], None]] = []
        self.hello: dict[bytes, Any] = {}

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """One command: ``await connection.call("SET", key, value)``. Written at the end of this tick of the loop.

        The future fails with StoreUnavailable when the connection is or gets lost, when the deadline passes, or when
        too much is under way; unless it was refused at once, the command may have run. It fails with ServerError when
        the server answers with an error, and with EpochMismatch when that error is ``EPOCH``. Cancelling it does not
        take the command back.
        """
        return self._wire.call(args)

    def send(self, *args: Argument) -> None:
        """A command that is answered by pushes only. Dropped while not connected."""
        self._wire.send(args)

    @property
    def connected(self) -> bool:
        return self._connected.is_set() and not self._wire.lost.done()

    async def wait_connected(self, timeout_s: float) -> None:
        """Raises StoreUnavailable when there is no connection within ``timeout_s``."""
        if self._wire.lost.done():
            self._connected.clear()  # the keeper may not have seen it yet
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise StoreUnavailable(STORE, f"no connection to {self._endpoint} within {timeout_s} s") from None

    def drop(self, reason: str) -> None:
        """Gives up the present socket and what is under way on it; the connection then comes back by itself."""
        self._wire.abort(reason)

    async def connect(self) -> None:
        """Connects once. Raises StoreUnavailable."""
        wire = self._new_wire()
        with self.breaker.probing():
            try:
                async with asyncio.timeout(self._handshake_s):
                    self.hello = await open_wire(self._endpoint, wire, name=self._name)
            except (OSError, KDCubeError) as error:  # OSError includes TimeoutError
                reason = str(error) or f"no answer within {self._handshake_s} s"
                raise StoreUnavailable(STORE, f"cannot connect to {self._endpoint}: {reason}") from error
        self._wire = wire
        self._connected.set()
        for listener in tuple(self.on_connect):
            try:
                listener()
            except Exception:
                logger.exception("valkey.connect_listener_failed", connection=self._name)

    async def keep_connected(self) -> None:
        """Runs for as long as the connection is wanted: notices a silent loss, and connects again after each."""
        while True:
            wire = self._wire
            await asyncio.wait({wire.lost}, timeout=_IDLE_PROBE_S)
            if wire.lost.done():
                self._connected.clear()
                self.breaker.trip(wire.lost.result())
                logger.warning("valkey.connection_lost", connection=self._name, reason=wire.lost.result())
                await self._reconnect()
            elif wire.idle:
                with contextlib.suppress(KDCubeError):  # a loss is seen above, any other answer proves life
                    await wire.call(("PING",))

    async def _reconnect(self) -> None:
        delay_s = _BACKOFF_MIN_S
        while True:
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, no secret)
            try:
                await self.connect()
            except StoreUnavailable as error:
                delay_s = min(delay_s * 2, _BACKOFF_MAX_S)
                logger.info("valkey.reconnect_failed", connection=self._name, reason=str(error), next_try_s=delay_s)
            else:
                logger.info("valkey.reconnected", connection=self._name)
                return

    async def close(self) -> None:
        await self._wire.close()

    def _new_wire(self) -> Wire:
        return Wire(deadline_s=self._deadline_s, max_in_flight=self._max_in_flight, on_push=self._on_push)


@asynccontextmanager
async def running(connection: Connection) -> AsyncGenerator[Connection]:
    """Connects, keeps connected, and closes at the end. Raises StoreUnavailable when the first connect fails."""
    await connection.connect()
    keeper = asyncio.create_task(connection.keep_connected(), name="valkey-keep-connected")
    try:
        yield connection
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})
        await connection.close()


@asynccontextmanager
async def open_connection(
    url: str, *, name: str, deadline_s: float = 5.0, max_in_flight: int = 20_000
) -> AsyncGenerator[Connection]:
    """A Connection to ``url``, shown as ``name`` in CLIENT LIST.

    Raises StoreUnavailable when the first connect fails, ConfigurationError when ``url`` is no Valkey URL.
    """
    endpoint = parse_endpoint(url)
    async with running(
        Connection(endpoint, name=name, deadline_s=deadline_s, max_in_flight=max_in_flight)
    ) as connection:
        yield connection


class BlockingConnection:
    """A socket for one blocking command at a time. Made by ``open_blocking_connection``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def blpop(self, key: Argument, timeout_s: float) -> bytes | None:
        """The first element of the list ``key``, or None after ``timeout_s``.

        Raises StoreUnavailable when there is no answer 2 s after that, or no connection. A cancelled call gives its
        socket up, so that the server does not go on to pop for nobody.
        """
        answer = self._connection.call("BLPOP", key, timeout_s)
        try:
            async with asyncio.timeout(timeout_s + _BLOCKING_MARGIN_S):
                reply = await answer
        except TimeoutError:
            self._connection.drop("a blocking command was not answered")
            raise StoreUnavailable(STORE, f"no answer to BLPOP within {timeout_s + _BLOCKING_MARGIN_S} s") from None
        except asyncio.CancelledError:
            self._connection.drop("a blocking command was cancelled")
            raise
        return None if reply is None else reply[1]

    @property
    def connected(self) -> bool:
        return self._connection.connected

    async def wait_connected(self, timeout_s: float) -> None:
        """Raises StoreUnavailable when there is no connection within ``timeout_s``."""
        await self._connection.wait_connected(timeout_s)


@asynccontextmanager
async def open_blocking_connection(url: str, *, name: str) -> AsyncGenerator[BlockingConnection]:
    """A BlockingConnection to ``url``; raises as ``open_connection`` does."""
    async with running(Connection(parse_endpoint(url), name=name, deadline_s=None, max_in_flight=8)) as connection:
        yield BlockingConnection(connection)
