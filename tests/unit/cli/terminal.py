"""A terminal for tests: what was written to it, as a person would see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pyte
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output
from rich.console import Console

from kdcube.cli.chat.inputs import Inputs
from kdcube.cli.chat.markdown import Painter
from kdcube.cli.chat.screen import Screen
from kdcube.cli.chat.terminal import TerminalView

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
_PATIENCE_S = 10.0


class Terminal:
    """A file that is a terminal. ``looks`` is asked after each write that leaves the screen whole."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000)
        self.written = ""
        self.changed = asyncio.Event()
        self.on_whole: Callable[[], None] = lambda: None
        self._stream = pyte.Stream(self.screen)
        self._whole = True

    def write(self, text: str) -> int:
        self.written += text
        self._stream.feed(text)
        if BEGIN in text or END in text:
            self._whole = text.rfind(END) > text.rfind(BEGIN)
        if self._whole:
            self.on_whole()
        self.changed.set()
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    @property
    def lines(self) -> list[str]:
        """All lines, those that have left the screen included, without the empty ones at the end."""
        columns = self.screen.columns
        past = ["".join(line[x].data for x in range(columns)).rstrip() for line in self.screen.history.top]
        shown = [line.rstrip() for line in self.screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return past + shown

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def shows(self, wanted: str | Callable[[str], bool]) -> str:
        """Waits until the terminal shows it; all that it shows then."""
        seen = wanted if callable(wanted) else lambda text: wanted in text
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not seen(self.text):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"{wanted!r} does not come; the terminal shows\n{self.text}") from None
        return self.text


@asynccontextmanager
async def opened(
    terminal: Terminal, inputs: Inputs, *, asks: bool = True, styles: bool = True
) -> AsyncGenerator[tuple[TerminalView, PipeInput]]:
    """A view on the terminal, and the keyboard."""
    with create_pipe_input() as keyboard:
        size = Size(rows=terminal.screen.lines, columns=terminal.screen.columns)
        output = Vt100_Output(terminal, lambda: size, enable_cpr=False)
        console = Console(file=terminal, force_terminal=True, color_system="standard", width=size.columns)
        screen = Screen(inputs, keyboard, output, asks=asks, styles=styles)
        async with screen, TerminalView(screen, Painter(console, styles=styles), echoes=asks) as view:
            yield view, keyboard
