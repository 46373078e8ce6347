"""One turn's log, from its beginning to its end, as the answer of a chat completion."""

from __future__ import annotations

from collections.abc import Callable

from kdcube.ingress.streams.projection.openai import Completion
from kdcube.ingress.streams.turn_stream import TurnStream


class CompletionStream:
    """The source of a completion's chunks, made of the lines of ``turn``. It cannot be resumed: ``turn`` begins at the
    log's beginning.
    """

    def __init__(self, turn: TurnStream, completion: Completion) -> None:
        self._turn = turn
        self._completion = completion

    @property
    def ended(self) -> bool:
        return self._completion.ended

    @property
    def more(self) -> bool:
        return self._turn.more

    def open(self, wake: Callable[[], None]) -> None:
        self._turn.open(wake)

    def ready(self) -> bytes | None:
        if self.ended:
            return b""
        while lines := self._turn.ready():
            if (chunks := self._take(lines)) or self.ended:  # lines that show nothing are passed over
                return chunks
        return lines

    async def fetch(self) -> bytes:
        return self._take(await self._turn.fetch())

    def close(self) -> None:
        self._turn.close()

    def _take(self, lines: bytes) -> bytes:
        return self._completion.take(lines.splitlines()) if lines else b""
