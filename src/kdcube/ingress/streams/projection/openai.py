"""OpenAI's Chat Completions: the log of a turn as the chunks of one answer, or as the answer in one piece.

What was sent cannot be unsent. Whenever the log begins anew (another attempt of the turn, a snapshot in the place of
events that are lost), it must say again what the client has been sent; then the rest goes on. If it says something
else, the stream ends with an error: no text is ever sent twice, left out, or mixed of two attempts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from kdcube.protocol.events import TERMINAL_KINDS, Fold, decode_body, split_line
from kdcube.protocol.turns import TurnState

Json = dict[str, Any]
T = TypeVar("T")

_FIELDS: Mapping[str, str] = {"thinking": "reasoning_content", "answer": "content"}
"""By marker, the member of a message that shows it. Other markers are not shown."""
_DONE = b"data: [DONE]\n\n"
_JSON = msgspec.json.Encoder()


class LogLines:
    """The projection of a log onto its own lines, a line feed behind each, for readers that keep a state."""

    def frame(self, head: bytes, incarnation: int, offset: int, line: bytes) -> bytes:
        return line + b"\n"

    def aside(self, head: bytes, line: bytes) -> bytes:
        return b""


class _Delta(msgspec.Struct):
    text: str
    marker: str


class _DeltaBody(msgspec.Struct):
    delta: _Delta


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _Citation(msgspec.Struct):
    n: int
    uri: str
    title: str = ""
    heading: str | None = None

    @property
    def line(self) -> str:
        within = self.heading or self.title
        return f"[{self.n}] {self.uri or self.title}" + (f" ({within})" if self.uri and within else "")


_DELTA = msgspec.json.Decoder(_DeltaBody)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no whole answer. ``status`` is for clients that get it in one piece."""

    status: int
    code: str
    message: str

    def error(self) -> Json:
        return error_object(self.status, self.code, self.message)


_BEGAN_ANEW = Failure(
    500,
    "answer_began_anew",
    "The answer began anew and says something else than what was sent. Ask for it again with the same Idempotency-Key.",
)
_LEAVING = Failure(
    503,
    "server_shutdown",
    "This process is being replaced; the turn goes on. Ask for its answer again with the same Idempotency-Key.",
)
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_object(status: int, code: str, message: str, param: str | None = None) -> Json:
    """OpenAI's shape of an error."""
    type_ = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


class Completion:
    """One answer, built from the lines of its turn's log in order. ``created_s`` is in seconds since 1970.

    ``take`` gives the chunks of a stream; with ``whole`` it gives nothing, and ``body`` is the answer once ``ended``.
    """

    def __init__(
        self, *, turn_id: str, conversation_id: str, model: str, created_s: int, whole: bool, include_usage: bool
    ) -> None:
        self.ended = False
        self.failure: Failure | None = None
        self._ids: Json = {"turn_id": turn_id, "conversation_id": conversation_id}
        self._answer: Json = {"id": f"chatcmpl-{turn_id}", "created": created_s, "model": model}
        self._whole = whole
        self._include_usage = include_usage
        self._fold = Fold(turn_id)
        self._held: dict[str, str] = {}
        """By marker, what was sent before the log began anew and is not said again yet."""
        self._begun = False
        self._finish_reason = "stop"
        self._out: list[bytes] = []
        self._saying = ""
        """The marker of ``_said``: text that waits for the end of its batch, to go out in one chunk."""
        self._said: list[str] = []

    def take(self, lines: Iterable[bytes]) -> bytes:
        """The next lines of the log; what the client gets of them."""
        for line in lines:
            if self.ended:
                break
            kind, body = split_line(line)
            if kind == b"delta":
                delta = _DELTA.decode(body).delta
                self._fold.delta(delta.marker, delta.text)
                if delta.marker in _FIELDS and delta.marker not in self._held:
                    self._say(delta.marker, delta.text)
                continue
            if kind in (b"start", b"snapshot"):
                self._hold()
            self._fold.add(line)
            if kind in TERMINAL_KINDS:
                self._end(decode_body(line)["data"])
            elif self._held:
                self._catch_up()
        self._catch_up()
        self._flush()
        out, self._out = self._out, []
        return b"".join(out)

    def leave(self) -> bytes:
        """What the client gets when this process stops before the end."""
        return b"" if self.ended else _data(_LEAVING.error())

    def body(self) -> Json:
        """The answer in one piece. It ``ended`` without a ``failure``."""
        message: Json = {"role": "assistant", "content": self._fold.text() + self._sources(), "refusal": None}
        if thinking := self._fold.text("thinking"):
            message["reasoning_content"] = thinking
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason}
        return {
            **self._answer,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(),
            "kdcube": self._more(),
        }

    # --- the log's course

    def _hold(self) -> None:
        """The log begins anew: until it has said again what was sent, nothing is."""
        self._greet()
        if not self._whole:
            self._flush()
            for marker in _FIELDS:
                self._held.setdefault(marker, self._fold.text(marker))

    def _catch_up(self) -> None:
        for marker, held in tuple(self._held.items()):
            text = self._fold.text(marker)
            if text.startswith(held):
                del self._held[marker]
                self._say(marker, text[len(held) :])
            elif not held.startswith(text):
                self._fail(_BEGAN_ANEW)

    def _end(self, data: Json) -> None:
        state: str = data["state"]
        error: Json = data.get("error") or {}
        answer: str = data.get("answer") or ""
        text = self._fold.text()
        if len(answer) > len(text) and answer.startswith(text):  # an end that is told without all of its deltas
            self._fold.delta("answer", answer[len(text) :])
            if "answer" not in self._held:
                self._say("answer", answer[len(text) :])
        self._catch_up()
        self._flush()
        if state == TurnState.CANCELLED:
            self._fail(Failure(409, "cancelled", "The turn was cancelled."))
        elif state == TurnState.FAILED and error.get("code") == "output_limit":
            self._finish_reason = "length"
            self._finish()
        elif state in (TurnState.FAILED, TurnState.INTERRUPTED):
            self._fail(Failure(500, error.get("code", state), error.get("message", "The turn has failed.")))
        elif self._held:
            self._fail(_BEGAN_ANEW)
        else:
            self._finish()

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._say("answer", self._sources())
        self._flush()
        self._greet()
        self._chunk({}, self._finish_reason, kdcube=self._more())
        if self._include_usage:
            self._send({"choices": [], "usage": self._usage()})
        if not self._whole:
            self._out.append(_DONE)

    def _fail(self, failure: Failure) -> None:
        if self.ended:
            return
        self._flush()
        self.ended = True
        self.failure = failure
        self._held.clear()
        if not self._whole:
            self._out.append(_data(failure.error()))

    # --- chunks

    def _greet(self) -> None:
        """The first chunk: at the turn's start, or with what comes without one."""
        if not self._begun:
            self._begun = True
            self._chunk({"role": "assistant", "content": ""}, kdcube=self._ids)

    def _say(self, marker: str, text: str) -> None:
        if self._whole or not text:
            return
        if marker != self._saying:
            self._flush()
            self._saying = marker
        self._said.append(text)

    def _flush(self) -> None:
        if self._said:
            self._greet()
            self._chunk({_FIELDS[self._saying]: "".join(self._said)})
            self._said.clear()

    def _chunk(self, delta: Json, finish_reason: str | None = None, **more: Json) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage: Json = {"usage": None} if self._include_usage else {}
        self._send({"choices": [choice], **usage, **more})

    def _send(self, members: Json) -> None:
        if not self._whole:
            self._out.append(_data({**self._answer, "object": "chat.completion.chunk", **members}))

    # --- what comes with the end

    def _usage(self) -> Json:
        """The sum of what the bundle told of its calls of models; zero when it told nothing."""
        calls = self._told("turn.usage", _Usage)
        prompt = sum(call.input_tokens for call in calls)
        completion = sum(call.output_tokens for call in calls)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _citations(self) -> list[Any]:
        return [citation for citations in self._told("turn.citations", list[Any]) for citation in citations]

    def _sources(self) -> str:
        """What the numbers in the answer stand for: clients of OpenAI's API know of no citations."""
        lines: list[str] = []
        for told in self._citations():
            with suppress(msgspec.ValidationError):
                lines.append(msgspec.convert(told, _Citation).line)
        return "\n".join(("\n\nSources:\n", *lines)) if lines else ""

    def _more(self) -> Json:
        snapshot = self._fold.snapshot()
        more: Json = {
            "citations": self._citations(),
            "followups": [question for questions in self._told("turn.followups", list[Any]) for question in questions],
            "steps": [{name: step.get(name) for name in ("step", "title", "status")} for step in snapshot.steps],
        }
        return {**self._ids, **{name: told for name, told in more.items() if told}}

    def _told(self, type_: str, shape: type[T]) -> list[T]:
        """The data of all service events of a type. It comes from the bundle: what has another shape is left out."""
        told: list[T] = []
        for service in self._fold.snapshot().services:
            if service["type"] == type_:
                with suppress(msgspec.ValidationError):
                    told.append(msgspec.convert(service["data"], shape))
        return told


def _data(value: Json) -> bytes:
    return b"data: " + _JSON.encode(value) + b"\n\n"
