"""The terminal of the standard streams."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext

from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_input, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output
from rich.console import Console

from kdcube.cli.chat.inputs import Inputs
from kdcube.cli.chat.markdown import Painter
from kdcube.cli.chat.memory import Memory
from kdcube.cli.chat.screen import Screen
from kdcube.cli.chat.slash import COMMANDS
from kdcube.cli.chat.terminal import TerminalView


@asynccontextmanager
async def terminal_view(inputs: Inputs, memory: Memory, *, asks: bool, styles: bool) -> AsyncGenerator[TerminalView]:
    """A view on the standard output, with an input line where the standard input is a terminal as well.

    ``asks``: there is to be a session, which shows what was asked.
    """
    typed = sys.stdin.isatty()
    with nullcontext(create_input(sys.stdin)) if typed else create_pipe_input() as keyboard:
        screen = Screen(
            inputs,
            keyboard,
            Vt100_Output(sys.stdout, _size, enable_cpr=False),
            asks=typed,
            styles=styles,
            history=memory.input_history() if typed else None,
            words=COMMANDS,
        )
        painter = Painter(Console(file=sys.stdout), styles=styles)
        async with screen, TerminalView(screen, painter, echoes=asks) as view:
            yield view


def _size() -> Size:
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    return Size(rows=rows or 24, columns=columns or 80)
