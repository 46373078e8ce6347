"""A client of the whole system: sends, reads streams as a browser does, and keeps what it saw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PREFIX = "/chatbot/api"
ENDS = ("chat_complete", "chat_error")
_PATIENCE_S = 60.0
"""For one answer, or for the events that a test waits for."""
_RECONNECT_S = 0.05
"""As the ``retry:`` of a browser: a server that is away is not asked in a busy loop."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: its own id (None without one), its name, and its data."""

    id: str | None
    name: str
    data: dict[str, Any]

    @property
    def type(self) -> str:
        return self.data.get("type", "")

    @property
    def turn(self) -> str | None:
        """The internal id of the turn that it is about."""
        return self.data.get("conversation", {}).get("task_id")

    @property
    def offset(self) -> int | None:
        """Its place in the log of its turn; None for what stands in no log."""
        return self.data.get("offset")

    @property
    def text(self) -> str:
        return self.data["delta"]["text"] if self.name == "chat_delta" else ""

    @property
    def ends_turn(self) -> bool:
        return self.name in ENDS

    @property
    def turn_state(self) -> str | None:
        """What a ``conv_status`` tells of its turn."""
        return self.data["data"].get("turn_state") if self.name == "conv_status" else None


class Refused(Exception):
    """A stream was not opened."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code} {response.text}")
        self.response = response


class Stream:
    """One connection to a stream and all that it has brought."""

    def __init__(self, source: AsyncGenerator[Event]) -> None:
        self._source = source
        self.events: list[Event] = []

    @property
    def cursor(self) -> str | None:
        """The id of the latest event that has one."""
        return next((event.id for event in reversed(self.events) if event.id), None)

    async def next(self) -> Event | None:
        """The next event; None when the server has closed the stream."""
        event = await anext(self._source, None)
        if event is not None:
            self.events.append(event)
        return event

    async def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Reads up to the first event that is wanted."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while (event := await self.next()) is not None:
                    if wanted(event):
                        return event
        except TimeoutError:
            raise AssertionError(f"it does not come; the stream has brought {self._names()}") from None
        raise AssertionError(f"the stream ended before that; it brought {self._names()}")

    async def rest(self) -> list[Event]:
        """Reads on until the server closes the stream; everything that this connection has brought."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while await self.next() is not None:
                    pass
        except TimeoutError:
            raise AssertionError(f"the stream does not end; it has brought {self._names()}") from None
        return self.events

    def _names(self) -> list[str]:
        return [event.name for event in self.events]


class Client:
    """One user, who reaches every ingress process: ``at`` is its number, counted round. ``http`` has to be closed."""

    def __init__(self, urls: Sequence[str], token: str | None = None) -> None:
        self.urls = list(urls)
        self.token = token
        self.http = httpx.AsyncClient(
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=_PATIENCE_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    def url(self, path: str, at: int = 0) -> str:
        return self.urls[at % len(self.urls)] + PREFIX + path

    # --- requests

    async def ask(self, method: str, path: str, *, at: int = 0, **request: Any) -> httpx.Response:
        return await self.http.request(method, self.url(path, at), **request)

    async def send(
        self,
        text: str = "one two three",
        *,
        at: int = 0,
        key: str | None = None,
        echo: dict[str, Any] | None = None,
        trial: dict[str, Any] | None = None,
        **message: Any,
    ) -> httpx.Response:
        """``key`` is the Idempotency-Key; ``echo`` and ``trial`` are orders for the trial bundle."""
        if payload := {name: orders for name, orders in (("echo", echo), ("trial", trial)) if orders}:
            message["payload"] = payload
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.ask("POST", "/sse/chat", at=at, json={"message": {"text": text, **message}}, headers=headers)

    async def sent(self, text: str = "one two three", **message: Any) -> dict[str, Any]:
        """``send``, accepted."""
        response = await self.send(text, **message)
        assert response.status_code == 202, response.text
        return response.json()

    async def cancel(self, *, at: int = 0, **what: str) -> str:
        """By ``turn_id`` or ``conversation_id``; the status."""
        response = await self.ask("POST", "/sse/cancel", at=at, json=what)
        assert response.status_code == 200, response.text
        return response.json()["status"]

    async def conversation(self, conversation_id: str, *, at: int = 0) -> dict[str, Any]:
        response = await self.ask("GET", f"/conversations/{conversation_id}", at=at)
        assert response.status_code == 200, response.text
        return response.json()

    async def stored(self, conversation_id: str, *, at: int = 0) -> dict[str, dict[str, Any]]:
        """Every turn of a conversation by its internal id; an applied steer has the state ``applied``."""
        view = await self.conversation(conversation_id, at=at)
        turns = {turn["task_id"]: turn for turn in [*view["turns"], *view["pending"], *view["unstarted"]]}
        for turn in view["turns"]:
            turns.update({steer["task_id"]: {**steer, "state": "applied"} for steer in turn["steers"]})
        return turns

    async def mark(self, conversation_id: str, title: str = "marked", *, at: int = 0) -> None:
        """Renames a conversation: the event of that, ``is_mark``, comes after all that has happened before."""
        response = await self.ask("PATCH", f"/conversations/{conversation_id}", at=at, json={"title": title})
        assert response.status_code == 200, response.text

    # --- streams

    @asynccontextmanager
    async def stream(
        self, path: str, *, at: int = 0, cursor: str | None = None, by_query: bool = False, **query: str
    ) -> AsyncGenerator[Stream]:
        """An open stream. Raises Refused."""
        headers: dict[str, str] = {}
        if cursor is not None and by_query:
            query["cursor"] = cursor
        elif cursor is not None:
            headers["Last-Event-ID"] = cursor
        async with self.http.stream("GET", self.url(path, at), params=query, headers=headers) as response:
            if response.status_code != 200:
                await response.aread()
                raise Refused(response)
            async with aclosing(_events(response)) as source:
                yield Stream(source)

    def turn_stream(self, turn_id: str, **where: Any) -> Any:
        return self.stream(f"/turns/{turn_id}/stream", **where)

    def user_stream(self, **where: Any) -> Any:
        return self.stream("/sse/stream", **where)

    async def ended(self, turn_id: str, *, at: int = 0) -> list[Event]:
        """Everything that the turn's stream brings, to its end."""
        async with self.turn_stream(turn_id, at=at) as stream:
            events = await stream.rest()
        assert events, "the stream brought nothing"
        assert events[-1].ends_turn, f"the last event is {events[-1]}"
        return events

    async def follow(
        self,
        path: str,
        seen: list[Event],
        done: Callable[[Event], bool],
        *,
        at: int = 0,
        cut: Callable[[Event], bool] = lambda _: False,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Reads into ``seen`` up to an event that is ``done``.

        Whenever the connection is lost or refused, and after each event that ``cut`` picks, it goes on with its cursor
        at the next ingress process.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._follow(path, seen, done, at, cut)
        except TimeoutError:
            raise AssertionError(f"it does not come; {path} has brought {[event.name for event in seen]}") from None

    async def _follow(
        self, path: str, seen: list[Event], done: Callable[[Event], bool], at: int, cut: Callable[[Event], bool]
    ) -> None:
        cursor = next((event.id for event in reversed(seen) if event.id), None)
        while True:
            try:
                async with self.stream(path, at=at, cursor=cursor) as stream:
                    while (event := await stream.next()) is not None:
                        seen.append(event)
                        cursor = event.id or cursor
                        if done(event):
                            return
                        if cut(event):
                            break
                    else:
                        await asyncio.sleep(_RECONNECT_S)
            except httpx.TransportError:
                await asyncio.sleep(_RECONNECT_S)
            except Refused as refused:
                if refused.response.status_code != 503:
                    raise
                await asyncio.sleep(_RECONNECT_S)
            at += 1


async def _events(response: httpx.Response) -> AsyncGenerator[Event]:
    """The events of a response, split at line feeds alone, as the format says."""
    async with aclosing(response.aiter_raw()) as chunks:
        rest = b""
        id_, name, data = None, "message", list[str]()
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    field, _, value = line.decode().partition(":")
                    value = value.removeprefix(" ")
                    if field == "id":
                        id_ = value
                    elif field == "event":
                        name = value
                    elif field == "data":
                        data.append(value)
                    else:
                        assert field in ("", "retry"), f"no field of an event: {line!r}"
                elif data:
                    yield Event(id_, name, json.loads("\n".join(data)))
                    id_, name, data = None, "message", list[str]()


class Gate:
    """A file that the trial bundle, or a failpoint, waits for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> None:
        self.path.touch()

    def close(self) -> None:
        """What comes next waits, and ``reached`` waits for it."""
        self.path.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)

    async def reached(self) -> None:
        """Wait until a failpoint has come here."""
        async with asyncio.timeout(_PATIENCE_S):
            while not self._reached.exists():
                await asyncio.sleep(_RECONNECT_S)

    @property
    def _reached(self) -> Path:
        return self.path.with_name(self.path.name + ".reached")


# --- what tests look for ----------------------------------------------------------------------------------------------


def is_mark(event: Event) -> bool:
    return event.type == "conversation.renamed"


def told_end_of(*turn_ids: str) -> Callable[[Event], bool]:
    """True from the event on with which the user's stream has told the ends of all these turns (by internal id)."""
    missing = set(turn_ids)

    def told(event: Event) -> bool:
        if event.turn_state in ("completed", "cancelled", "failed", "interrupted"):
            missing.discard(str(event.turn))
        return not missing

    return told


def answer(events: Sequence[Event]) -> str:
    """The text of the deltas, with what a resync put in the place of earlier ones."""
    text = ""
    for event in events:
        if event.name == "resync":
            text = event.data["data"]["text"].get("answer", "")
        elif event.name == "chat_start":
            text = ""
        elif event.name == "chat_delta" and event.data["delta"]["marker"] == "answer":
            text += event.text
    return text


def state(events: Sequence[Event]) -> str:
    """How the turn ended."""
    return events[-1].data["data"]["state"]


def logged(events: Sequence[Event], turn_id: str | None = None) -> list[Event]:
    """Those that stand in a turn's log."""
    return [event for event in events if event.offset is not None and turn_id in (None, event.turn)]


def told(events: Sequence[Event]) -> list[tuple[str, str | None, str | None]]:
    """Those that the user's feed told: type, turn, and what became of it."""
    return [
        (event.type, event.turn, event.turn_state or event.data["data"].get("state"))
        for event in events
        if event.offset is None and event.id is not None and event.name != "ready"
    ]
