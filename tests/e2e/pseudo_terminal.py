"""A program at a pseudo-terminal, as a person uses it: keys go in, and what the terminal shows is read."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.unit.cli.terminal import Terminal

_PATIENCE_S = 60.0

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


class AtTerminal(Terminal):
    """A running program. ``shows`` waits for what it shows."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, columns: int, rows: int) -> None:
        super().__init__(columns, rows)
        self._process = process
        self._master = master
        self._closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)
        self._rest = b""

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        self.press(line + ENTER)

    async def ended(self) -> int:
        """Its exit code, once it has ended and all that it wrote was read."""
        async with asyncio.timeout(_PATIENCE_S):
            await self._closed.wait()
        return await asyncio.to_thread(self._process.wait, _PATIENCE_S)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the program's side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
            self._closed.set()
            return
        text, self._rest = _whole_characters(self._rest + data)
        self.write(text)


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    for kept in range(len(data), max(-1, len(data) - 4), -1):
        try:
            return data[:kept].decode(), data[kept:]
        except UnicodeDecodeError:
            continue
    return data.decode(errors="replace"), b""


@asynccontextmanager
async def at_terminal(
    command: Sequence[str], env: Mapping[str, str], *, columns: int = 100, rows: int = 30
) -> AsyncGenerator[AtTerminal]:
    """Runs ``command`` with a terminal of its own; it is killed if it is still there at the end."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is its own
    )
    os.close(slave)
    terminal = AtTerminal(process, master, columns, rows)
    try:
        yield terminal
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
