"""Without a terminal: the answer on the standard output, everything else on the standard error; or all as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

import msgspec

from kdcube.cli.chat.view import ending, harmless, queued, quote, source, step_of, when
from kdcube.client import Accepted, ConversationItem, Event, Reading, Turn


class _Streams:
    """Answers on one stream; what is said about them on the other."""

    def __init__(self, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        self._out = out
        self._err = err

    def retrying(self, reason: str, pause_s: float) -> None:
        self.note(f"{reason}; trying again")

    def note(self, text: str) -> None:
        self._err.write(f"{harmless(text)}\n")
        self._err.flush()

    def problem(self, text: str) -> None:
        self.note(f"kdcube: {text}")

    def command(self, line: str) -> None:
        pass


class PlainView(_Streams):
    """Text as it comes. What was written stays: an answer that begins anew is written anew, and that is said."""

    def __init__(self, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        super().__init__(out, err)
        self._clean = harmless if out.isatty() else str
        self._clear()

    def _clear(self) -> None:
        self._written: list[str] = []
        self._position: int | None = None

    def asked(self, text: str) -> None:
        self._clear()

    def accepted(self, accepted: Accepted) -> None:
        pass

    def event(self, event: Event, reading: Reading, *, replaced: bool) -> None:
        if replaced:
            self._replace(reading.answer)
        elif event.name == "chat_delta" and event.data["delta"]["marker"] == "answer":
            self._write(event.data["delta"]["text"])
        elif event.type == "queue.position" and reading.position not in (1, self._position):
            self._position = reading.position
            self.note(queued(reading.position, reading.eta_s))
        elif (step := step_of(event)) and step.get("status") in ("completed", "error"):
            self.note(step.get("title", ""))

    def ended(self, reading: Reading | None) -> None:
        if reading is not None:
            self._replace(reading.answer)  # such as one that was not streamed
        self._line_end()
        if reading is None:
            return
        if reading.citations:
            self._print("\nSources:\n")
            for citation in reading.citations:
                self._print(f"[{citation.n}] {source(citation)}\n")
                if told := quote(citation):
                    self._print(f'    "{told}"\n')
        if problem := ending(reading):
            self.problem(f"the turn {'was ' if reading.state != 'failed' else ''}{problem}")

    def past(self, turn: Turn) -> None:
        self._print(f"> {turn.message}\n{turn.answer}\n\n")

    def listing(self, conversations: Sequence[ConversationItem], first: int) -> None:
        for number, item in enumerate(conversations, first):
            self._print(f"{number:>3}  {when(item.last_activity_at)}  {item.title}  {item.conversation_id}\n")

    def _replace(self, answer: str) -> None:
        written = "".join(self._written)
        if not answer.startswith(written):
            self._line_end()
            self.note("the answer begins again")
            self._written, written = [], ""
        self._write(answer[len(written) :])

    def _write(self, text: str) -> None:
        if text:
            self._print(text)
            self._written.append(text)

    def _line_end(self) -> None:
        if self._written and not self._written[-1].endswith("\n"):
            self._print("\n")

    def _print(self, text: str) -> None:
        self._out.write(self._clean(text))
        self._out.flush()


class JsonView(_Streams):
    """One JSON object a line: ``{"event", "id"?, "data"}`` for each event, ``accepted`` (the 202) first."""

    def asked(self, text: str) -> None:
        pass

    def accepted(self, accepted: Accepted) -> None:
        self._line({"event": "accepted", "data": msgspec.to_builtins(accepted)})

    def event(self, event: Event, reading: Reading, *, replaced: bool) -> None:
        ids = {} if event.id is None else {"id": event.id}
        self._line({"event": event.name, **ids, "data": event.data})

    def ended(self, reading: Reading | None) -> None:
        if reading is not None and (problem := ending(reading)):
            self.problem(problem)

    def past(self, turn: Turn) -> None:
        self._line({"event": "past", "data": msgspec.to_builtins(turn)})

    def listing(self, conversations: Sequence[ConversationItem], first: int) -> None:
        self._line({"event": "conversations", "data": msgspec.to_builtins(conversations)})

    def _line(self, value: dict[str, Any]) -> None:
        self._out.write(msgspec.json.encode(value).decode() + "\n")
        self._out.flush()
