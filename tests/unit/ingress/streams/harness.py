"""An ASGI server with a client behind it, and what a client makes of the events. Shared with the integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request

from kdcube.gateway.caller import Caller
from kdcube.ingress.streams import Streams
from kdcube.ingress.streams.response import EventStream
from kdcube.protocol.turns import UserType

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Event:
    name: str
    id: str | None
    data: dict[str, Any]
    retry_ms: int | None = None


def parse(block: bytes) -> Event | None:
    """One block of an event stream; None for a comment."""
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    retry = fields.get("retry")
    return Event(fields["event"], fields.get("id"), msgspec.json.decode(fields["data"]), int(retry) if retry else None)


class Reader:
    """A client that reads one response. While ``paused`` it takes nothing."""

    def __init__(self, response: EventStream, *, paused: bool = False, method: str = "GET") -> None:
        self.events: list[Event] = []
        self.comments = 0
        self.bytes = 0
        self.sends = 0
        self.status: int | None = None
        self.complete = False
        """The response ended by itself, in the proper way."""
        self.largest_send = 0
        self._rest = b""
        self._open = asyncio.Event()
        if not paused:
            self._open.set()
        self._gone = asyncio.Event()
        self._more = asyncio.Event()
        self.task = asyncio.create_task(response({"type": "http", "method": method}, self._receive, self._send))  # type: ignore[arg-type]
        self.task.add_done_callback(lambda _: self._more.set())

    @property
    def last_id(self) -> str | None:
        """What a browser's EventSource would send as Last-Event-ID."""
        return next((event.id for event in reversed(self.events) if event.id is not None), None)

    def pause(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    async def leave(self) -> None:
        """Closes the connection."""
        self._gone.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait({self.task})
        self.task.result()

    async def until(self, enough: Callable[[list[Event]], bool]) -> list[Event]:
        """Waits until the events are enough."""
        async with asyncio.timeout(PATIENCE_S):
            while not enough(self.events):
                assert not self.task.done(), f"the response ended early: {self.events[-3:]}"
                self._more.clear()
                await self._more.wait()
        return self.events

    async def to_the_end(self) -> list[Event]:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait({self.task})
        self.task.result()
        return self.events

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        if not self._open.is_set():
            await self._open.wait()
        if self._gone.is_set():
            return
        body = message["body"]
        self.sends += 1
        self.bytes += len(body)
        self.largest_send = max(self.largest_send, len(body))
        self._rest += body
        *blocks, self._rest = self._rest.split(b"\n\n")
        for block in blocks:
            event = parse(block)
            if event is None:
                self.comments += 1
            else:
                self.events.append(event)
        if not message["more_body"]:
            assert self._rest == b""
            self.complete = True
        self._more.set()


@dataclass
class View:
    """What a client shows of one turn. Raises AssertionError when an event is missing, doubled or out of order."""

    text: dict[str, str] = field(default_factory=dict)
    place: tuple[int, int] = (0, 0)
    attempt: int = 0
    terminal: list[Event] = field(default_factory=list)
    resyncs: int = 0
    positions: list[int] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        data = event.data
        if event.name == "chat_service" and data["type"] == "queue.position":
            assert event.id is None
            self.positions.append(data["data"]["position"])
            return
        if event.name == "chat_step" and data["type"] == "stream.resync":
            assert event.id is None
            return
        assert event.id is not None, event
        assert not self.terminal, f"{event.name} after the end"
        place = (data["incarnation"], data["offset"])
        if event.name == "resync":
            self.resyncs += 1
            self.text = dict(data["data"]["text"])
            self.attempt = data["data"]["attempt"]
            assert (data["data"]["incarnation"], data["data"]["offset"]) == place
            self.place = place
            return
        if self.place[1]:
            assert place == (self.place[0], self.place[1] + 1), f"{place} after {self.place}"
        else:
            assert place[1] == 1, f"{place} is the first"
        self.place = place
        match event.name:
            case "chat_start":
                self.text = {}
                self.attempt = data["attempt"]
            case "chat_delta":
                marker = data["delta"]["marker"]
                self.text[marker] = self.text.get(marker, "") + data["delta"]["text"]
            case "chat_complete" | "chat_error":
                self.terminal.append(event)
            case _:
                pass

    def apply_all(self, events: list[Event]) -> View:
        for event in events:
            self.apply(event)
        return self


def views(events: list[Event]) -> dict[str, View]:
    """The turns of a user's stream, by internal id."""
    found: dict[str, View] = {}
    for event in events:
        if event.name in ("ready", "conv_status", "server_shutdown"):
            continue
        if event.name == "chat_service" and event.data["type"] != "queue.position":
            continue
        found.setdefault(event.data["conversation"]["task_id"], View()).apply(event)
    return found


def caller(user_id: str = "ada", *, anonymous_user_id: str | None = None) -> Caller:
    return Caller(
        user_id,
        UserType.REGISTERED,
        (),
        session_id=f"s-{user_id}",
        username=user_id,
        anonymous_user_id=anonymous_user_id,
    )


def request(
    cursor: str | None = None,
    *,
    query: str = "",
    query_cursor: str | None = None,
    left: asyncio.Event | None = None,
) -> Request:
    """``left``: the client has closed the connection."""
    left = left or asyncio.Event()
    whole = False

    async def receive() -> dict[str, Any]:
        nonlocal whole
        if not whole:
            whole = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    headers = [(b"last-event-id", cursor.encode())] if cursor else []
    if query_cursor:
        query = f"{query}&cursor={query_cursor}".lstrip("&")
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": query.encode()}
    return Request(scope, receive)


async def read_turn(
    streams: Streams,
    turn_id: str,
    cursor: str | None = None,
    *,
    user: Caller | None = None,
    query: str = "",
    paused: bool = False,
) -> Reader:
    """Opens a stream of one turn."""
    return Reader(await streams.turn_stream(request(cursor, query=query), user or caller(), turn_id), paused=paused)


async def read_user(
    streams: Streams,
    cursor: str | None = None,
    *,
    user: Caller | None = None,
    query: str = "stream_id=s1",
    paused: bool = False,
) -> Reader:
    """Opens a user's stream."""
    return Reader(await streams.user_stream(request(cursor, query=query), user or caller()), paused=paused)


@dataclass
class Time:
    """A clock that moves when it is told to."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


async def spin(times: int = 20) -> None:
    """Lets everything that can run, run."""
    for _ in range(times):
        await asyncio.sleep(0)
