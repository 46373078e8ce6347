"""The turn as a bundle sees it: one user message, and the means to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from kdcube.protocol.trace_context import TraceContext
from kdcube.sdk.inbox import Inbox
from kdcube.sdk.outlet import Outlet
from kdcube.sdk.secrets import read_secret
from kdcube.sdk.wire import MAX_EVENT_BYTES, HistoryItem, Service, StartTurn, Step, User

Marker = Literal["answer", "thinking", "canvas", "timeline_text", "subsystem"]
StepStatus = Literal["started", "running", "completed", "error", "skipped"]

_MARKERS = frozenset(get_args(Marker))
_STATUSES = frozenset(get_args(StepStatus))


class Cancellation:
    """Whether the turn was cancelled: ``if turn.cancelled`` asks, ``await turn.cancelled`` waits for it.

    The handler's task is cancelled as well (asyncio.CancelledError), right after this says so.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self._event.is_set()

    def __await__(self) -> Generator[Any, Any, bool]:
        return self._event.wait().__await__()

    def set(self, reason: str) -> None:
        self.reason = reason
        self._event.set()


class Turn:
    """One attempt at one message. Its methods belong to the loop that runs the handler, not to other threads."""

    def __init__(self, start: StartTurn, outlet: Outlet, inbox: Inbox) -> None:
        self.id = start.turn_id
        """The turn's id; with ``attempt`` a fencing token for tools that must not act twice."""
        self.attempt = start.attempt
        """1 for the first."""
        self.text = start.text
        self.payload: dict[str, Any] = start.payload
        """What the client sent beside the text."""
        self.history: Sequence[HistoryItem] = start.history
        """The conversation before this message, from its root, oldest first."""
        self.user: User = start.user
        self.config: Mapping[str, Any] = start.config
        """The ``config`` of the bundle's registry entry."""
        self.state: dict[str, Any] = start.state
        """JSON that the conversation keeps for the bundle. Change it in place: it commits when the turn completes."""
        self.inbox = inbox
        """Messages that come while this turn runs."""
        self.cancelled = Cancellation()
        self.trace = TraceContext(start.traceparent, start.tracestate) if start.traceparent else TraceContext.new()
        """The trace that the turn belongs to. ``turn.trace.headers`` go with requests to other systems, so that what
        these record joins it.
        """
        self.attachments: tuple[Any, ...] = ()
        self._secrets = start.secrets
        self._unreadable = start.unreadable
        self._outlet = outlet
        self._citations = 0

    async def delta(self, text: str, marker: Marker = "answer") -> None:
        """Streams text. The ``answer`` deltas, joined, are the stored answer.

        Waits while 256 KiB of the turn's text are on their way; a cancel ends the wait. Long text is sent in pieces.
        """
        if not isinstance(text, str):
            raise TypeError(f"delta text must be a str, not {type(text).__name__}: pass the text of the token")
        if marker not in _MARKERS:
            raise ValueError(f"unknown marker {marker!r}: use one of {', '.join(get_args(Marker))}")
        await self._outlet.text(text if type(text) is str else str.__str__(text), marker)

    async def step(
        self,
        name: str,
        title: str | None = None,
        status: StepStatus = "started",
        *,
        markdown: str | None = None,
        agent: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Shows progress. A step is known by its ``name``: the same name again updates it.

        ``markdown`` is shown under the title; ``data`` is JSON for clients that know this step. 256 KiB in all.
        """
        if not name or not isinstance(name, str):
            raise ValueError("step needs a name: a short constant such as 'search'; a later status uses the same one")
        if status not in _STATUSES:
            raise ValueError(f"unknown step status {status!r}: use one of {', '.join(get_args(StepStatus))}")
        event: dict[str, Any] = {"step": name, "title": title or name, "status": status}
        if agent is not None:
            event["agent"] = agent
        if markdown is not None:
            event["markdown"] = markdown
        event = json_value("step", event)
        extra = None if data is None else json_value("step data", dict(data))
        self._outlet.event(Step(self._outlet.turn, event, extra))

    async def cite(self, title: str, uri: str, *, heading: str | None = None, quote: str | None = None) -> int:
        """Adds a source and returns its number in this turn, from 1, for use in the text."""
        citation: dict[str, Any] = {"n": self._citations + 1, "title": title, "uri": uri}
        if heading is not None:
            citation["heading"] = heading
        if quote is not None:
            citation["quote"] = quote
        self._service("turn.citations", [citation])
        self._citations += 1
        return self._citations

    async def followups(self, questions: Sequence[str]) -> None:
        """Offers what the user may ask next."""
        if isinstance(questions, str) or not all(isinstance(question, str) for question in questions):
            raise TypeError("followups takes a list of str, one for each suggestion")
        self._service("turn.followups", list(questions))

    async def usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Records the tokens of one model call."""
        if input_tokens < 0 or output_tokens < 0:
            raise ValueError("usage takes token counts of 0 or more")
        self._service("turn.usage", {"model": model, "input_tokens": input_tokens, "output_tokens": output_tokens})

    def secret(self, name: str) -> str:
        """A secret that the registry grants to this bundle. Raises SecretNotGranted, SecretUnavailable."""
        return read_secret(self._secrets, self._unreadable, name)

    def _service(self, type_: str, data: Any) -> None:
        self._outlet.event(Service(self._outlet.turn, type_, json_value(type_, data)))


def json_value(what: str, value: Any, limit_bytes: int = MAX_EVENT_BYTES) -> Any:
    """``value`` as plain JSON types. Raises TypeError when it is no JSON, ValueError when it is too large."""
    json_bytes(what, value, limit_bytes)
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def json_bytes(what: str, value: Any, limit_bytes: int | None = None) -> bytes:
    """``value`` as JSON. Raises as ``json_value``; without a limit nothing is too large."""
    try:
        data = msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, UnicodeEncodeError) as error:
        raise TypeError(f"{what} must be JSON (dict, list, str, int, float, bool, None): {error}") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply, or holds itself") from None
    if limit_bytes is not None and len(data) > limit_bytes:
        raise ValueError(
            f"{what} is {len(data)} bytes of JSON, over the limit of {limit_bytes}: send a reference instead"
        )
    return data


def _plain(value: Any) -> str:
    """Frameworks give text as classes of their own that are strings, such as LangChain's ``message.text``."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
