"""The way of a turn's events to proc: in order, text within its credit, nothing after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from kdcube.sdk.wire import CREDIT_BYTES, MAX_DELTA_BYTES, Delta, text_bytes

_DELTAS_PER_TICK = 64
"""After so many deltas an emitter that never waits lets the loop go round, so that other turns and the wire go on."""


class Outlet:
    def __init__(self, turn: int, send: Callable[[Any], None]) -> None:
        self.turn = turn
        self._send = send
        self._unacknowledged = 0
        self._room: asyncio.Future[None] | None = None
        self._released = False
        self._since_yield = 0
        self.answered = False
        """An ``answer`` delta was sent."""
        self.closed = False

    async def text(self, text: str, marker: str) -> None:
        """Sends a delta, in pieces when it is long. Waits for credit; a cancel ends the wait with CancelledError."""
        if self.closed:
            raise _ended()
        try:
            size = text_bytes(text)
        except UnicodeEncodeError:
            raise ValueError(
                "delta text holds a lone surrogate, which UTF-8 cannot carry: "
                "decode the model's bytes incrementally, or with errors='replace'"
            ) from None
        if size > MAX_DELTA_BYTES:
            for piece in split_text(text, MAX_DELTA_BYTES):
                await self._piece(piece, text_bytes(piece), marker)
        elif size:
            await self._piece(text, size, marker)

    async def _piece(self, text: str, size: int, marker: str) -> None:
        while self._unacknowledged + size > CREDIT_BYTES:
            await self._wait()
        if self.closed:
            raise _ended()
        self._unacknowledged += size
        self._send(Delta(self.turn, text, marker))
        if marker == "answer":
            self.answered = True
        self._since_yield += 1
        if self._since_yield == _DELTAS_PER_TICK:
            self._since_yield = 0
            await asyncio.sleep(0)

    def event(self, message: Any) -> None:
        """Sends what needs no credit."""
        if self.closed:
            raise _ended()
        self._send(message)

    def credit(self, n_bytes: int) -> None:
        """Proc has acknowledged so much text."""
        self._unacknowledged = max(0, self._unacknowledged - n_bytes)
        self._wake()

    def release(self) -> None:
        """The turn is cancelled: who waits for credit, now or later, is cancelled."""
        self._released = True
        self._wake()

    def close(self) -> None:
        """The turn has ended."""
        self.closed = True
        self.release()

    async def _wait(self) -> None:
        if not self._released:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)  # several may wait on it; one that is cancelled must not cancel it
        if self._released:
            raise asyncio.CancelledError("the turn is cancelled or has ended")

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None


def _ended() -> ValueError:
    return ValueError(
        "the turn has ended, nothing can be added: await what the handler starts (asyncio.TaskGroup) before it returns"
    )


def split_text(text: str, limit_bytes: int) -> Iterator[str]:
    """Pieces of at most ``limit_bytes`` (4 or more) in UTF-8, cut between characters."""
    data = text.encode()
    start = 0
    while start < len(data):
        end = start + limit_bytes
        if end < len(data):
            while data[end] & 0xC0 == 0x80:  # a continuation byte: the cut would be inside a character
                end -= 1
        yield data[start:end].decode()
        start = end
