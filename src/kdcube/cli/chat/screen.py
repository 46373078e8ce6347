"""The terminal: what is printed stays above, what changes and the input line are drawn below it.

prompt_toolkit draws the lower part by differences, so that a stream of changes neither flickers nor scrolls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from prompt_toolkit.application import Application
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import Input as Keyboard
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, ConditionalContainer, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.processors import AppendAutoSuggestion, BeforeInput
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.styles import Style

from kdcube.cli.chat.inputs import Break, End, Inputs, Line
from kdcube.cli.chat.tail import Tail

_STYLE = Style.from_dict({"status": "#888888", "prompt": "bold #00af87", "auto-suggestion": "#666666"})
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPIN_S = 0.125
_INPUT_ROWS = 6
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""Around a change of the screen that a terminal should show as a whole."""


class Screen:
    """An async context manager that has the terminal meanwhile. What the user does goes to ``inputs``.

    ``asks``: there is an input line. Everything printed or drawn is text with ANSI styles.
    """

    def __init__(
        self,
        inputs: Inputs,
        keyboard: Keyboard,
        output: Output,
        *,
        asks: bool,
        styles: bool,
        history: Path | None = None,
        words: Iterable[str] = (),
    ) -> None:
        self._inputs = inputs
        self._output = output
        self._tail = Tail()
        self._status = ""
        self._began = 0.0
        self._whole = True
        self._buffer = Buffer(
            history=FileHistory(str(history)) if history else InMemoryHistory(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=WordCompleter(sorted(words), sentence=True),
            multiline=True,
        )
        tail = Window(self._tail, dont_extend_height=True)
        # With an input line there is a row for the status even when there is none: it keeps the line apart.
        status = Window(FormattedTextControl(self._status_line), height=1)
        line = Window(
            BufferControl(self._buffer, input_processors=[BeforeInput("› ", "class:prompt"), AppendAutoSuggestion()]),
            height=Dimension(min=1, max=_INPUT_ROWS),
            dont_extend_height=True,
            wrap_lines=True,
        )
        self._app: Application[None] = Application(
            layout=Layout(
                HSplit(
                    [
                        ConditionalContainer(tail, Condition(lambda: self._tail.rows > 0)),
                        ConditionalContainer(status, Condition(lambda: asks or bool(self._status))),
                        ConditionalContainer(line, Condition(lambda: asks)),
                    ]
                ),
                focused_element=line,
            ),
            key_bindings=self._keys(),
            style=_STYLE,
            color_depth=None if styles else ColorDepth.DEPTH_1_BIT,
            erase_when_done=True,
            input=keyboard,
            output=output,
        )
        self._app.after_render += self._rendered
        self._running: asyncio.Task[None] | None = None
        self._spinning: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        started = asyncio.Event()
        self._running = asyncio.create_task(self._app.run_async(pre_run=started.set))
        self._running.add_done_callback(lambda _: self._inputs.put_nowait(End()))  # such as when the keyboard is gone
        await started.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status("")
        self._tail.show([])
        if self._app.is_running:
            self._app.exit()
        if self._running is not None:
            with suppress(EOFError):
                await self._running

    @property
    def columns(self) -> int:
        return self._output.get_size().columns

    @property
    def tail_rows(self) -> int:
        """How many rows may change."""
        return max(3, self._output.get_size().rows - _INPUT_ROWS - 2)

    @property
    def shown_rows(self) -> int:
        """How many rows of what was printed last are surely still on the screen."""
        return self._output.get_size().rows - self._tail.rows - _INPUT_ROWS - 2

    def print(self, text: str, *, instead_of: int = 0) -> None:
        """Puts lines (each ended) above what changes; ``instead_of`` so many rows that were printed last."""
        if self._whole:
            self._output.write_raw(_BEGIN)
        self._whole = False
        self._app.renderer.erase()
        if instead_of:
            self._output.cursor_up(instead_of)
            self._output.erase_down()
        self._output.write_raw(text.replace("\n", "\r\n"))
        self._app.invalidate()

    def tail(self, text: str) -> None:
        """Draws the lines that may change still, the last ``tail_rows`` of them."""
        lines = text.rstrip("\n").split("\n")[-self.tail_rows :] if text else []
        self._tail.show(lines)
        self._app.invalidate()

    def status(self, text: str) -> None:
        """What goes on, beside a wheel that turns; empty: nothing does."""
        if text == self._status:
            return
        if text and not self._status:
            self._began = time.monotonic()
        self._status = text
        if text and self._spinning is None:
            self._spinning = asyncio.create_task(self._spin())
        elif not text and self._spinning is not None:
            self._spinning.cancel()
            self._spinning = None
        self._app.invalidate()

    async def _spin(self) -> None:
        while True:
            await asyncio.sleep(_SPIN_S)
            self._app.invalidate()

    def _status_line(self) -> StyleAndTextTuples:
        if not self._status:
            return []
        passed_s = time.monotonic() - self._began
        wheel = _SPINNER[int(passed_s / _SPIN_S) % len(_SPINNER)]
        seconds = f" · {passed_s:.0f} s" if passed_s >= 1 else ""
        return [("class:status", f"{wheel} {self._status}{seconds}")]

    def _rendered(self, _: object) -> None:
        if not self._whole:
            self._whole = True
            self._output.write_raw(_END)
            self._output.flush()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        @keys.add("c-j")  # what was typed before the terminal was ours
        def enter(event: KeyPressEvent) -> None:
            text = self._buffer.text.strip()
            self._buffer.text = text
            self._buffer.reset(append_to_history=bool(text))
            if text:
                self._inputs.put_nowait(Line(text))

        @keys.add("escape", "enter")
        def new_line(event: KeyPressEvent) -> None:
            self._buffer.newline(copy_margin=False)

        @keys.add("c-c")
        @keys.add(Keys.SIGINT)
        def interrupt(event: KeyPressEvent) -> None:
            if self._buffer.text and not self._status:
                self._buffer.reset()
            else:
                self._inputs.put_nowait(Break())

        @keys.add("c-d", filter=Condition(lambda: not self._buffer.text))
        def end(event: KeyPressEvent) -> None:
            self._inputs.put_nowait(End())

        @keys.add("tab")
        def complete(event: KeyPressEvent) -> None:
            if self._buffer.complete_state:
                self._buffer.complete_next()
            else:
                self._buffer.start_completion(select_first=True)

        for binding in (enter, new_line, interrupt, end, complete):
            del binding  # they are known by their keys
        return keys
