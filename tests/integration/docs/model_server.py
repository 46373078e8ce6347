"""A model by HTTP that speaks as OpenAI and as Anthropic do, and fails as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-very-secret-0123456789"
USAGE = (321, 45)


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class ModelServer:
    """Its ``answers`` are used up in turn; the last one stays."""

    url: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    answers: list[Answer] = field(default_factory=list["Answer"])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """A request has come."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A client has closed its connection in the middle of an answer."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append(Request(head[0].split(" ")[1], headers, body))
        self.arrived.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            await answer(self, reader, writer)
            await writer.drain()
        finally:
            writer.close()


Answer = Callable[[ModelServer, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def model_server() -> AsyncGenerator[ModelServer]:
    model = ModelServer()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    model.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield model
    finally:
        server.close()


# ---- answers


def says(provider: str, *pieces: str, ended: bool = True, reason: str | None = None) -> Answer:
    """Streams the pieces; an answer that is not ``ended`` is cut off behind them."""

    async def answer(_: ModelServer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _begin(writer)
        for event in _events(provider, pieces, ended, reason):
            writer.write(event)
            await writer.drain()

    return answer


def says_and_waits(provider: str, *pieces: str) -> Answer:
    """Streams the pieces, and then nothing until the client leaves."""

    async def answer(server: ModelServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if pieces:
            _begin(writer)
            for event in _events(provider, pieces, False, None):
                writer.write(event)
        await writer.drain()
        await reader.read()
        server.left.set()

    return answer


def refuses(status: int, headers: str = "") -> Answer:
    """An error whose body repeats the key, as some servers do."""

    async def answer(_: ModelServer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
        writer.write(f"HTTP/1.1 {status} No\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return answer


def raw(data: bytes) -> Answer:
    """Says this and closes."""

    async def answer(_: ModelServer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def _begin(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hello\n\n")


def _events(provider: str, pieces: Sequence[str], ended: bool, reason: str | None) -> list[bytes]:
    return (_anthropic if provider == "anthropic" else _openai)(pieces, ended, reason)


def _openai(pieces: Sequence[str], ended: bool, reason: str | None) -> list[bytes]:
    choices = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    choices += [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    if ended:
        choices.append({"index": 0, "delta": {}, "finish_reason": reason or "stop"})
    events: list[dict[str, Any]] = [{"object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    if ended:
        events.append({"choices": [], "usage": {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1]}})
    frames = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return [*frames, b"data: [DONE]\n\n"] if ended else frames


def _anthropic(pieces: Sequence[str], ended: bool, reason: str | None) -> list[bytes]:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": USAGE[0], "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    for piece in pieces:
        delta = {"type": "text_delta", "text": piece}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    if ended:
        delta = {"stop_reason": reason or "end_turn"}
        events.append({"type": "content_block_stop", "index": 0})
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": USAGE[1]}})
        events.append({"type": "message_stop"})
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
