"""Server-sent events, from the bytes of a response, as the HTML standard says.

An own parser: an event stream ends its lines at CR, LF or CRLF only, while the line splitting of text libraries also
breaks at characters such as U+2028, which JSON may hold as they are.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """``id`` is the id of this event alone: None when it has none."""

    id: str | None
    name: str
    data: str


class EventParser:
    """Takes the bytes of one response as they come. An event that is cut off by its end is never given out.

    ``retry_ms`` is the pause before a reconnect that the server has asked for.
    """

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest: list[str] = []
        self._after_cr = False
        self._clear()

    def _clear(self) -> None:
        self._id: str | None = None
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that this chunk completes."""
        text = self._decoder.decode(chunk)
        if not text:
            return []
        if self._after_cr and text.startswith("\n"):  # a CRLF that was cut in two
            text = text[1:]
        self._after_cr = text.endswith("\r") if text else False
        first, *others = _LINE_END.split(text)
        self._rest.append(first)
        if not others:
            return []
        *lines, rest = others
        lines.insert(0, "".join(self._rest))
        self._rest = [rest]
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            event = ServerSentEvent(self._id, self._name or "message", "\n".join(self._data)) if self._data else None
            self._clear()
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)
        return None
