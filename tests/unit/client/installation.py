"""A fake installation: answers by script, and keeps what it was asked. It never waits, and neither does its client."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx

from kdcube.client import Client

URL = "http://installation.test"
API = URL + "/chatbot/api"


def sse(name: str, data: dict[str, Any], id_: str | None = None) -> bytes:
    head = "" if id_ is None else f"id: {id_}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def start(id_: str | None = None, attempt: int = 1) -> bytes:
    return sse("chat_start", {"type": "chat.start", "attempt": attempt}, id_)


def delta(text: str, id_: str | None = None, marker: str = "answer") -> bytes:
    return sse("chat_delta", {"type": "chat.delta", "delta": {"text": text, "marker": marker}}, id_)


def complete(id_: str | None = None, state: str = "completed", **data: Any) -> bytes:
    name = "chat_complete" if state in ("completed", "cancelled", "applied") else "chat_error"
    return sse(name, {"type": "chat.complete", "data": {"state": state, **data}}, id_)


def service(type_: str, data: Any) -> bytes:
    return sse("chat_service", {"type": type_, "data": data})


def resync(text: str, *, attempt: int = 1, id_: str | None = None) -> bytes:
    notice = {"step": "stream.resync", "title": "The stream was resynchronised", "status": "completed"}
    data = {"attempt": attempt, "text": {"answer": text}, "steps": [], "services": [], "state": "running"}
    return sse("chat_step", {"type": "stream.resync", "event": notice}) + sse(
        "resync", {"type": "turn.snapshot", "data": data}, id_
    )


def cut(*parts: bytes) -> httpx.Response:
    """A stream that breaks in the middle."""

    async def broken() -> AsyncGenerator[bytes]:
        for part in parts:
            yield part
        raise httpx.ReadError("cut")

    return httpx.Response(200, content=broken())


def stream(*parts: bytes) -> httpx.Response:
    """A stream that is closed after these."""

    async def whole() -> AsyncGenerator[bytes]:
        for part in parts:
            yield part

    return httpx.Response(200, content=whole())


def problem(status: int, error: str = "", **members: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": error, "message": f"It says {error}.", "request_id": "r", **members})


def accepted(task_id: str = "t" * 32, **members: Any) -> httpx.Response:
    body = {
        "task_id": task_id,
        "turn_id": task_id,
        "conversation_id": "c" * 32,
        "user_type": "anonymous",
        "position": 0,
        **members,
    }
    return httpx.Response(202, json=body)


class Installation:
    """``answers`` are given in their order; one that is an exception is raised instead."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.asked: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.told: list[str] = []
        self._answers: Iterator[httpx.Response | Exception] = iter(answers)
        self._now = 0.0

    def client(self, **options: Any) -> Client:
        return Client(
            URL,
            transport=httpx.MockTransport(self._answer),
            pause=self._pause,
            clock=lambda: self._now,
            on_retry=lambda reason, pause_s: self.told.append(reason),
            **options,
        )

    def header(self, name: str) -> list[str | None]:
        """Of each request."""
        return [request.headers.get(name) for request in self.asked]

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _pause(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self._now += pause_s
