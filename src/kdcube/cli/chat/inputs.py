"""What a user does: types a line, presses Ctrl-C, closes the input."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A line was entered."""

    text: str


@dataclass(frozen=True, slots=True)
class Break:
    """Ctrl-C."""


@dataclass(frozen=True, slots=True)
class End:
    """Ctrl-D, or the end of what is piped in."""


Input = Line | Break | End
Inputs = asyncio.Queue[Input]


@contextmanager
def breaks(inputs: Inputs) -> Generator[None]:
    """Ctrl-C becomes a Break, where no screen reads the keys."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, inputs.put_nowait, Break())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def read_lines(inputs: Inputs) -> None:
    """Lines of the standard input, in a thread that ends with the process: such a read cannot be ended."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(inputs.put_nowait, Line(line.rstrip("\n")))
        loop.call_soon_threadsafe(inputs.put_nowait, End())

    threading.Thread(target=read, name="chat-input", daemon=True).start()
