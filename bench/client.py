"""A cheap user: one stream, one connection for messages, bytes searched instead of decoded.

It shares the cores with the system that it loads, so it does little: it finds the events that it waits for by their
names, counts, and decodes whole streams for one turn in a hundred only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

Address = tuple[str, int]

VERIFIED_SHARE = 100
"""One turn in so many is decoded and compared with what the bundle said."""

_START = b"event: chat_start\n"
_DELTA = b"event: chat_delta\n"
_COMPLETE = b"event: chat_complete\n"
_ERROR = b"event: chat_error\n"
_EVENT = b"\nevent: "
_OWN_TIMES = re.compile(rb'"answer":"(\d+) .*?(\d+)"')
_DATA = re.compile(rb"^data: (.*)$", re.MULTILINE)


class WrongStream(AssertionError):
    """The system did what it promises not to do."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a turn's bundle is asked to say."""

    deltas: int
    pause_ms: float = 0
    alternate: bool = False
    """Markers change with each delta, so that none are joined on their way."""

    @property
    def payload(self) -> dict[str, object]:
        return {"bench": {"deltas": self.deltas, "pause_ms": self.pause_ms, "alternate": self.alternate}}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as its user saw it: seconds since the moment at which it was to be sent."""

    accepted_s: float
    first_event_s: float
    first_delta_s: float
    whole_s: float
    own_s: float
    """The bundle's share of ``whole_s``."""
    deltas: int
    ended_at: float


@dataclass(slots=True)
class Tally:
    """What all users saw."""

    turns: list[Turn] = field(default_factory=list[Turn])
    verified: int = 0
    refused: int = 0


class Messages(asyncio.Protocol):
    """A connection on which one request at a time is sent."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._read = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        read = self._read = self._read + data
        head, found, body = read.partition(b"\r\n\r\n")
        length = head.find(b"content-length: ")
        if not found or len(body) < int(head[length + 16 :].split(b"\r", 1)[0]):
            return
        self._read = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Stream(asyncio.Protocol):
    """The user's stream. Searches whole events; ``kept`` is everything since ``expect``, if asked for."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.events = 0
        self.deltas = 0
        self.starts = 0
        self.ends = 0
        self.first_event_at = 0.0
        self.first_delta_at = 0.0
        self.ended_at = 0.0
        self.own_s = 0.0
        self.kept: list[bytes] | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def expect(self, keep: bool) -> None:
        """The next turn's events follow."""
        self.first_event_at = self.first_delta_at = 0.0
        self.deltas = 0
        self.kept = [] if keep else None
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = data.rfind(b"\n\n") + 2
        self._rest = data[end:] if end > 1 else data
        if end == 1:
            return
        whole = data[:end]
        self.events += whole.count(_EVENT)
        if self.kept is not None:
            self.kept.append(whole)
        if not self.first_event_at and _START in whole:
            self.starts += whole.count(_START)
            self.first_event_at = time.monotonic()
        deltas = whole.count(_DELTA)
        if deltas:
            self.deltas += deltas
            if not self.first_delta_at:
                self.first_delta_at = time.monotonic()
        if _COMPLETE in whole or _ERROR in whole:
            self._end(whole)
        elif not self.ready.is_set():
            self.ready.set()

    def _end(self, whole: bytes) -> None:
        self.ended_at = time.monotonic()
        self.ends += whole.count(_COMPLETE) + whole.count(_ERROR)
        found = _OWN_TIMES.search(whole, max(whole.find(_COMPLETE), 0))
        if found is None:
            self.ended.set_exception(WrongStream(f"a turn ended in another way: {whole[-600:]!r}"))
            return
        self.own_s = (int(found[2]) - int(found[1])) / 1e9
        if self.ended.done():
            raise WrongStream("a turn ended twice")
        self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(WrongStream("the stream was cut"))
            self.ended.exception()  # nobody may be waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class User:
    """An anonymous user who sends by one ingress process and reads by another. One turn at a time."""

    def __init__(self, messages: Messages, stream: Stream, session: str, name: str) -> None:
        self._messages = messages
        self.stream = stream
        self._session = session
        self._name = name
        self._numbers = itertools.count(1)

    async def turn(self, kind: Kind, tally: Tally, due: float | None = None) -> None:
        """Sends a message and waits until its turn has ended. ``due``: when it should have been sent."""
        number = next(self._numbers)
        stream = self.stream
        verify = number % VERIFIED_SHARE == 1
        stream.expect(keep=verify)
        request = self._request(number, kind)
        began = due or time.monotonic()
        status, answer = await self._messages.ask(request)
        if status != 202:
            tally.refused += 1
            raise WrongStream(f"a message was refused with {status}: {answer[:300]!r}")
        accepted = time.monotonic()
        await stream.ended
        if not 1 <= stream.deltas <= kind.deltas:
            raise WrongStream(f"{stream.deltas} deltas instead of {kind.deltas}")
        if kind.alternate and stream.deltas != kind.deltas:
            raise WrongStream(f"{stream.deltas} deltas instead of {kind.deltas}, and none may be joined")
        if stream.starts != number or stream.ends != number:
            raise WrongStream(f"{number} turns started {stream.starts} times and ended {stream.ends} times")
        if stream.kept is not None:
            verify_stream(b"".join(stream.kept), kind)
            tally.verified += 1
        tally.turns.append(
            Turn(
                accepted - began,
                stream.first_event_at - began,
                stream.first_delta_at - began,
                stream.ended_at - began,
                stream.own_s,
                stream.deltas,
                stream.ended_at,
            )
        )

    def _request(self, number: int, kind: Kind) -> bytes:
        message = {"text": "bench", "turn_id": f"{self._name}-{number}", "payload": kind.payload}
        body = json.dumps({"message": message}).encode()
        head = (
            f"POST /sse/chat HTTP/1.1\r\nHost: bench\r\nUser-Session-ID: {self._session}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def close(self) -> None:
        self._messages.close()
        self.stream.close()


def verify_stream(stream: bytes, kind: Kind) -> None:
    """One turn's events are whole, in order, and say what the bundle said. Raises WrongStream."""
    events = [json.loads(data) for data in _DATA.findall(stream)]
    of_turn = [event for event in events if "offset" in event]
    offsets = [event["offset"] for event in of_turn]
    if offsets != list(range(1, len(offsets) + 1)):
        raise WrongStream(f"events are missing or repeated: offsets {offsets}")
    text: dict[str, str] = {}
    for event in of_turn:
        if event["type"] == "chat.delta":
            delta = event["delta"]
            text[delta["marker"]] = text.get(delta["marker"], "") + delta["text"]
    if of_turn[-1]["data"]["answer"] != text["answer"] or sum(
        map(str.count, text.values(), itertools.repeat("word "))
    ) != (kind.deltas - 2):
        raise WrongStream(f"the text is not what the bundle said: {text}")


async def open_user(addresses: Sequence[Address], number: int) -> User:
    """Users spread over the ingress processes; each reads by the one after the one that it sends by."""
    loop = asyncio.get_running_loop()
    host, port = addresses[number % len(addresses)]
    _, messages = await loop.create_connection(Messages, host, port)
    _, body = await messages.ask(b"GET /profile HTTP/1.1\r\nHost: bench\r\n\r\n")
    session = json.loads(body)["session_id"]
    host, port = addresses[(number + 1) % len(addresses)]
    transport, stream = await loop.create_connection(Stream, host, port)
    path = f"/sse/stream?stream_id=s{number}&user_session_id={session}"
    transport.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    await stream.ready.wait()
    return User(messages, stream, session, f"t{number}")


async def open_users(addresses: Sequence[Address], count: int) -> list[User]:
    return list(await asyncio.gather(*(open_user(addresses, number) for number in range(count))))
