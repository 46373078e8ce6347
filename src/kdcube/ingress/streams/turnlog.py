"""One turn's log as this process knows it: where it stands, its recent lines, and who follows it. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdcube.ingress.streams.projection import Projection
from kdcube.redis.queue import QueuePosition

_LINE_BYTES = 48
"""What keeping a line takes beside its bytes."""


class Follower(Protocol):
    """Somebody who has a place in the log."""

    def wake(self) -> None:
        """There may be something new. Called on the event loop, often; it must only make a note."""
        ...


class Life:
    """One unbroken life of a log: within it an offset always means the same event. Two lives are never equal.

    The life of incarnation 0 is that of a turn that has no log: it waits for its start, or it is ``stored``, and then
    consists of two events, what it said and how it ended.
    """

    __slots__ = ("epoch", "incarnation", "stored")

    def __init__(self, epoch: int, incarnation: int, *, stored: bool = False) -> None:
        self.epoch = epoch
        self.incarnation = incarnation
        self.stored = stored

    @property
    def order(self) -> tuple[int, int]:
        """A later life is greater."""
        return (self.epoch, self.incarnation)


@dataclass(frozen=True, slots=True)
class Folded:
    """A snapshot of a life, folded to ``offset``."""

    life: Life
    offset: int
    line: bytes


class TurnLog:
    """``tail`` events of ``life`` are known here; the last of them are in memory. Only the hub changes it.

    While it is not ``synced`` nothing may be taken: Valkey has to be asked first. ``waiting``: the turn is in the queue
    and has no log yet. ``closed``: the event at ``tail`` is terminal.
    """

    __slots__ = (
        "_base", "_bytes", "_lines", "_recent_max_bytes", "_rendered", "_rendered_for", "closed", "folded",
        "folding", "followers", "head", "heard_at", "life", "look_again", "looking", "looks", "position",
        "synced", "tail", "turn_id", "waiting", "waits_in",
    )  # fmt: skip

    def __init__(self, turn_id: str, recent_bytes: int, *, hint: int = 0) -> None:
        self.turn_id = turn_id
        self.life = Life(0, 0)
        self.head = b""
        self.tail = hint
        self.synced = False
        self.waiting = False
        self.closed = False
        self.position: QueuePosition | None = None
        self.followers: dict[Follower, None] = {}
        self.folding = asyncio.Lock()
        self.folded: Folded | None = None
        self.looking = False
        """The hub reads it."""
        self.look_again = False
        self.looks = 0
        """Readings that are over. One that is asked for now ends later, and has seen what is there now."""
        self.heard_at = 0.0
        self.waits_in: Callable[[str], int | None] | None = None
        """Until the log's channel is heard, see LogHub.follow."""
        self._recent_max_bytes = recent_bytes
        self._base = hint
        self._lines: list[bytes] = []
        self._bytes = 0
        """What the lines take."""
        self._rendered_for: tuple[Projection, int, int] | None = None
        self._rendered: list[bytes] = []
        """The frames that one of several followers took last: the others mostly take the same."""

    def begin(self, life: Life, *, after: int = 0, lines: Sequence[bytes] = ()) -> None:
        """Another life, of which ``lines`` are known, the first being event ``after + 1``."""
        self.life = life
        self.tail = self._base = after
        self._lines.clear()
        self._bytes = 0
        self._forget_rendered()
        self.folded = None
        self.closed = False
        self.waiting = False
        self.position = None
        if lines:
            self.append(lines)

    def append(self, lines: Sequence[bytes]) -> None:
        """The next events of this life."""
        self.tail += len(lines)
        self._lines.extend(lines)
        for line in lines:
            self._bytes += len(line) + _LINE_BYTES
        if self._bytes > self._recent_max_bytes:
            self._trim(self._recent_max_bytes // 4 * 3)  # less, so that it is rarely done

    def skip_to(self, tail: int) -> None:
        """Events up to ``tail`` exist, but not here."""
        self._trim(0)
        self.tail = self._base = tail

    def _trim(self, max_bytes: int) -> None:
        """Forgets the first lines until the rest take ``max_bytes`` at most."""
        count = 0
        for line in self._lines:
            if self._bytes <= max_bytes:
                break
            self._bytes -= len(line) + _LINE_BYTES
            count += 1
        self._base += count
        del self._lines[:count]
        self._forget_rendered()

    def _forget_rendered(self) -> None:
        self._rendered_for = None
        self._rendered = []

    @property
    def remembers_after(self) -> int:
        """Everything behind this offset is in memory."""
        return self._base

    @property
    def recent_bytes(self) -> int:
        """What is in memory, about."""
        return self._bytes

    def line(self, offset: int) -> bytes | None:
        """The line of one event, if it is in memory."""
        index = offset - self._base - 1
        return self._lines[index] if 0 <= index < len(self._lines) else None

    def recent(self, projection: Projection, after: int, limit_bytes: int) -> list[bytes] | None:
        """Frames of the events behind ``after``, about ``limit_bytes`` of them but at least one; None: not in memory.

        ``after`` is below ``tail``.
        """
        if after < self._base:
            return None
        wanted = (projection, after, self.tail)
        if wanted == self._rendered_for:
            return self._rendered
        render, head, incarnation = projection.frame, self.head, self.life.incarnation
        frames: list[bytes] = []
        size, offset = 0, after
        for line in self._lines[after - self._base :]:
            offset += 1
            frame = render(head, incarnation, offset, line)
            size += len(frame)
            if size > limit_bytes and frames:
                break
            frames.append(frame)
        if len(self.followers) > 1:
            self._rendered_for, self._rendered = wanted, frames
        return frames

    def wake(self) -> None:
        """Tells every follower."""
        for follower in tuple(self.followers):
            follower.wake()
