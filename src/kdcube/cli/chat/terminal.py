"""The conversation on a terminal: markdown that is drawn while it streams, steps, sources, what goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from kdcube.cli.chat.markdown import Blocks, Painter
from kdcube.cli.chat.screen import Screen
from kdcube.cli.chat.view import ending, harmless, queued, quote, source, step_of, when
from kdcube.client import Accepted, Citation, ConversationItem, Event, Reading, Turn

_FRAME_S = 1 / 20
_DRAWING_SHARE = 5
"""Of the time at most one part in so many goes into drawing: a long block is drawn less often."""
_DRAWN_CHARS = 8_000
"""A block that is longer is shown as text until it is complete."""

_DIM, _GOOD, _BAD = "bright_black", "green", "bold red"
_STEP_SIGNS = {"completed": ("✓", _GOOD), "error": ("✗", _BAD), "skipped": ("-", _DIM)}


class TerminalView:
    """A View on a Screen, which it borrows. An async context manager. ``echoes``: it shows what was asked."""

    def __init__(self, screen: Screen, painter: Painter, *, echoes: bool) -> None:
        self._screen = screen
        self._painter = painter
        self._echoes = echoes
        self._dirty = asyncio.Event()
        self._drawing: asyncio.Task[None] | None = None
        self._clear()

    def _clear(self) -> None:
        self._blocks = Blocks()
        self._given: list[str] = []
        """All of the answer that ``_blocks`` was given."""
        self._answer_rows = 0
        """Rows that were printed of the answer, as long as nothing else was printed since."""
        self._shown_steps: set[str] = set()
        self._around: set[str] = set()
        """Steps that began before the answer."""
        self._held: list[tuple[str, str]] = []
        """Steps that ended while a block of the answer grew: shown behind it, and none behind the last one."""

    async def __aenter__(self) -> Self:
        self._drawing = asyncio.create_task(self._draw_frames())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            with suppress(asyncio.CancelledError):
                await self._drawing

    # --- a turn

    def asked(self, text: str) -> None:
        self._clear()
        if self._echoes:
            self._aside(f"› {text}", "bold", space=True)
        self._screen.status("sending")

    def accepted(self, accepted: Accepted) -> None:
        if accepted.receipt is None:
            self._screen.status(queued(accepted.position, accepted.eta_s))

    def event(self, event: Event, reading: Reading, *, replaced: bool) -> None:
        if replaced:
            self._replace(reading)
        match event.name:
            case "chat_delta":
                self._delta(event.data["delta"])
            case "chat_step" if step := step_of(event):
                self._step(step)
            case "chat_service" if event.type == "queue.position":
                self._screen.status(queued(reading.position, reading.eta_s))
            case "chat_start":
                self._screen.status("working" if reading.attempt == 1 else f"working, attempt {reading.attempt}")
            case "resync":
                self._screen.status("answering" if reading.answer else "working")
            case _:
                pass

    def retrying(self, reason: str, pause_s: float) -> None:
        self._screen.status(f"{harmless(reason)}; trying again")

    def ended(self, reading: Reading | None) -> None:
        if reading is not None:
            self._replace(reading)  # such as an answer that was not streamed
        self._draw()
        self._draw(last=True)
        self._screen.status("")
        if reading is None:
            return
        self._sources(reading.citations)
        for artifact in reading.artifacts:
            self._aside(f"▤ {artifact.get('name')}  {artifact.get('url', '')}", _DIM)
        if reading.followups:
            self._aside("You could ask:", _DIM, space=True)
            for question in reading.followups:
                self._aside(f"· {question}", _DIM, indent=2)
        problem = ending(reading)
        if reading.state == "cancelled":
            self._aside("■ cancelled", "yellow", space=True)
        elif problem:
            self._aside(f"✗ {problem}", _BAD, space=True)
            if self._echoes:
                self._aside("/retry asks again", _DIM, indent=2)

    def _delta(self, delta: dict[str, str]) -> None:
        if delta["marker"] == "thinking":
            self._screen.status("thinking")
        elif delta["marker"] == "answer":
            self._screen.status("answering")
            self._take(delta["text"])

    def _step(self, step: dict[str, str]) -> None:
        name, title, status = step.get("step", ""), step.get("title") or step.get("step", ""), step.get("status", "")
        if status not in _STEP_SIGNS:
            self._screen.status(harmless(title))
            if not self._given:
                self._around.add(name)
            return
        if status == "completed" and self._given and name in self._around:  # the step is the answering itself
            return
        sign, style = _STEP_SIGNS[status]
        if (key := f"{name} {title} {status}") not in self._shown_steps:
            self._shown_steps.add(key)
            self._draw()
            self._held.append((f"{sign} {title}", style if status == "error" else _DIM))
            if not self._blocks.rest.strip():
                self._release()

    def _sources(self, citations: Sequence[Citation]) -> None:
        if not citations:
            return
        self._aside("Sources", "bold", space=True)
        for citation in citations:
            self._aside(f"[{citation.n}] {source(citation)}", "cyan", indent=1)
            if told := quote(citation):
                self._aside(f"“{told}”", _DIM, indent=5)

    # --- the answer

    def _take(self, text: str) -> None:
        if not text:
            return
        self._given.append(text)
        self._blocks.add(text)
        self._dirty.set()

    def _replace(self, reading: Reading) -> None:
        """Goes on where what is shown is the beginning of what holds now; otherwise takes it back."""
        given = "".join(self._given)
        if reading.answer.startswith(given):
            self._take(reading.answer[len(given) :])
            return
        rows, steps = self._answer_rows, self._shown_steps
        self._clear()
        self._shown_steps = steps if reading.steps else set()
        self._screen.tail("")
        if 0 < rows <= self._screen.shown_rows:
            self._screen.print("", instead_of=rows)
        elif rows:
            self._aside("the answer begins again", "yellow", space=True)
        self._take(reading.answer)

    async def _draw_frames(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            began_s = time.thread_time()
            self._draw()
            await asyncio.sleep(max(_FRAME_S, _DRAWING_SHARE * (time.thread_time() - began_s)))

    def _draw(self, *, last: bool = False) -> None:
        """Prints the blocks that are complete, and draws the one that grows."""
        complete = self._blocks.take()
        if last:
            complete += self._blocks.finish()
        if complete.strip():
            text = "\n" + self._painter.markdown(complete, self._screen.columns)
            self._screen.print(text)
            self._answer_rows += text.count("\n")
            if not last:
                self._release()
        rest = self._blocks.rest
        if not rest.strip():
            self._screen.tail("")
        elif len(rest) > _DRAWN_CHARS:
            self._screen.tail(self._last_lines(rest))
        else:
            self._screen.tail("\n" + self._painter.markdown(rest, self._screen.columns))

    def _release(self) -> None:
        for line, style in self._held:
            self._aside(line, style)
        self._held.clear()

    def _last_lines(self, text: str) -> str:
        """Its end, as it is written."""
        columns = self._screen.columns - 1
        shown = text[-self._screen.tail_rows * columns :]
        lines = [line[at : at + columns] for line in shown.split("\n") for at in range(0, max(1, len(line)), columns)]
        return "\n".join(lines)

    # --- beside the answer

    def note(self, text: str) -> None:
        self._aside(text, _DIM)

    def problem(self, text: str) -> None:
        self._screen.status("")
        self._aside(f"✗ {text}", _BAD)

    def past(self, turn: Turn) -> None:
        self._aside(f"› {turn.message}", "bold", space=True)
        if turn.answer.strip():
            self._screen.print("\n" + self._painter.markdown(harmless(turn.answer), self._screen.columns))
        self._sources([citation for group in turn.citations for citation in group])
        if turn.state in ("failed", "cancelled", "interrupted"):
            self._aside(turn.state, "yellow")

    def command(self, line: str) -> None:
        self._aside(f"› {line}", _DIM, space=True)

    def listing(self, conversations: Sequence[ConversationItem], first: int) -> None:
        for number, item in enumerate(conversations, first):
            room = max(20, self._screen.columns - 28)
            title = item.title if len(item.title) <= room else item.title[: room - 1] + "…"
            self._aside(f"{number:>3}  {when(item.last_activity_at)}  {title}")

    def _aside(self, text: str, style: str = "", *, indent: int = 0, space: bool = False) -> None:
        """Lines that are not of the answer."""
        self._answer_rows = 0
        blank = "\n" if space else ""
        self._screen.print(blank + self._painter.line(text, style, indent=indent, columns=self._screen.columns))
