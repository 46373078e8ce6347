"""One RESP3 socket, from its handshake to its loss: commands in, replies out in the same order.

What makes it cheap: a command is packed at once and joins a buffer that is written once per tick of the event loop,
however many tasks wrote to it, and a reply costs one step of the C parser and one future. No task, no lock and no timer
per command.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import hiredis

from kdcube.protocol.errors import EpochMismatch, KDCubeError, StoreUnavailable
from kdcube.redis.endpoint import Endpoint

Argument: TypeAlias = bytes | str | int | float

STORE = "valkey"
_HELD_MAX_BYTES = 64 * 1024 * 1024
"""What may wait here while the socket does not take more. The kernel and the transport hold less than 8 MB."""
_HIGH_WATER_BYTES = 1024 * 1024
_NOTHING = object()
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
_UNAVAILABLE = frozenset(
    {"LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "NOREPLICAS", "BUSY", "OOM", "MISCONF", "UNBLOCKED"}
)
"""Error codes with which a server says that it cannot serve now: a matter of waiting, as a lost connection is."""


class ServerError(KDCubeError):
    """Valkey answered a command with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


class _Demoted(StoreUnavailable):
    """The server is a read-only replica now: the name may lead to another server, so the socket must be opened anew."""


def _reply_error(text: str) -> Exception:
    code, _, message = text.partition(" ")
    if code == "EPOCH":
        return EpochMismatch(message or None)
    if code == "READONLY":
        return _Demoted(STORE, text)
    if code in _UNAVAILABLE:
        return StoreUnavailable(STORE, text)
    return ServerError(code, message)


class Wire(asyncio.Protocol):
    """One socket. ``lost`` resolves once, with the reason, when it is gone; everything under way has failed by then."""

    def __init__(
        self,
        *,
        deadline_s: float | None,
        max_in_flight: int,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._create_future: Callable[[], asyncio.Future[Any]] = loop.create_future
        self._deadline_s = deadline_s
        self._max_in_flight = max_in_flight
        self._on_push = on_push
        self._reader = hiredis.Reader(replyError=_reply_error, notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._buffer: list[bytes] = []
        self._flush_due = False
        self._paused = False
        self._held_bytes = 0
        self._answered = 0
        self._marks: deque[tuple[float, int]] = deque()
        """(when it is too late, how many replies must have come by then), one for each flush."""
        self._timer: asyncio.TimerHandle | None = None
        self._reason = "the connection is closed"
        self._detached: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()

    # --- sending

    def call(self, args: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """One command; the future gets its reply. Raises TypeError for an argument that is not a Argument."""
        future = self._create_future()
        pending = self._pending
        if len(pending) >= self._max_in_flight or self._held_bytes > _HELD_MAX_BYTES:
            return _failed(future, self._refusal())
        command = _pack(args)
        if self._paused:
            self._held_bytes += len(command)
        self._buffer.append(command)
        pending.append(future)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)
        return future

    def send(self, args: tuple[Argument, ...]) -> None:
        """One command that is answered by pushes only (SUBSCRIBE and its like). Does nothing on a lost socket."""
        if self._transport is None:
            return
        self._buffer.append(_pack(args))
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what waits. Called by itself once per tick."""
        self._flush_due = False
        if self._transport is None or not self._buffer:
            return
        if self._deadline_s is not None and self._pending:
            too_late = self._loop.time() + self._deadline_s
            self._marks.append((too_late, self._answered + len(self._pending)))
            if self._timer is None:
                self._timer = self._loop.call_at(too_late, self._check_deadline)
        if not self._paused:
            self._transport.write(b"".join(self._buffer))
            self._buffer.clear()

    @property
    def idle(self) -> bool:
        """No reply is outstanding."""
        return not self._pending

    def _refusal(self) -> str:
        if self._transport is None:
            return self._reason
        if self._held_bytes > _HELD_MAX_BYTES:
            return f"{self._held_bytes} bytes wait for the socket"
        return f"{len(self._pending)} commands are under way already"

    # --- receiving

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        pending = self._pending
        before = len(pending)
        demoted = False
        reply: Any = None
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if isinstance(reply, hiredis.PushNotification):
                    if self._on_push is not None:
                        self._on_push(cast("list[Any]", reply))
                    continue
                future = pending.popleft()
                if isinstance(reply, KDCubeError):
                    demoted = demoted or isinstance(reply, _Demoted)
                    if not future.done():
                        future.set_exception(reply)
                elif not future.done():  # else its caller was cancelled; the reply only keeps the order
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(f"the server sent what answers nothing: {str(reply or error)[:200]}")
            return
        self._answered += before - len(pending)
        marks = self._marks
        while marks and marks[0][1] <= self._answered:
            marks.popleft()
        if demoted:
            self.abort("the server is a read-only replica")

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._marks:
            return
        too_late = self._marks[0][0]
        if too_late > self._loop.time():
            self._timer = self._loop.call_at(too_late, self._check_deadline)
        else:
            self.abort(f"no answer within {self._deadline_s} s")

    # --- the life of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._held_bytes = 0
        self.flush()

    def abort(self, reason: str) -> None:
        """Gives the socket up at once. Replies are ordered, so one that is missing takes all behind it along."""
        transport = self._transport
        self._end(reason)
        if transport is not None:
            transport.abort()

    async def close(self, linger_s: float = 1.0) -> None:
        """Sends what waits, then closes; what is under way fails. Unsent data gets ``linger_s``."""
        transport = self._transport
        if transport is None:
            return
        self.flush()
        self._end("the connection is closed")
        transport.close()
        await asyncio.wait({self._detached}, timeout=linger_s)
        transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection was lost: {exc}" if exc else "the server closed the connection")
        self._detached.set_result(None)

    def _end(self, reason: str) -> None:
        if self.lost.done():
            return
        self._transport = None
        self._reason = reason
        self._max_in_flight = 0
        self._buffer.clear()
        self._marks.clear()
        if self._timer is not None:
            self._timer.cancel()
        pending, self._pending = self._pending, deque()
        for future in pending:
            if not future.done():
                _failed(future, f"{reason}; whether the command ran is unknown")
        self.lost.set_result(reason)


def _failed(future: asyncio.Future[Any], message: str) -> asyncio.Future[Any]:
    future.set_exception(StoreUnavailable(STORE, message))
    future.exception()  # whoever waits gets it; asyncio need not report those for whom nobody waits
    return future


async def open_wire(endpoint: Endpoint, wire: Wire, *, name: str) -> dict[bytes, Any]:
    """Connects ``wire``, signs in and names the connection. Returns the server's answer to HELLO.

    Raises OSError, ConfigurationError, StoreUnavailable or ServerError; the socket is gone then.
    """
    loop = asyncio.get_running_loop()
    if endpoint.path is not None:
        await loop.create_unix_connection(lambda: wire, endpoint.path)
    else:
        await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, ssl=endpoint.tls_context())
    sign_in = ("AUTH", endpoint.username, endpoint.password) if endpoint.password is not None else ()
    try:
        hello = await wire.call(("HELLO", 3, *sign_in, "SETNAME", name))
        if endpoint.db:
            await wire.call(("SELECT", endpoint.db))
    except BaseException:
        wire.abort("the handshake failed")
        raise
    return hello
