"""One turn's log as this process knows it: where it stands, its recent lines, and who follows it. No I/O."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdcube.ingress.streams.projection import Projection
from kdcube.redis.queue import QueuePosition

_FRAME_BYTES = 400
"""About what a frame adds to its line; counted so that the bound holds for what is really kept."""


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
        self._recent_bytes = recent_bytes
        self._base = hint
        self._lines: list[bytes] = []
        self._ends: list[int] = []
        """Running total of bytes behind each line."""
        self._total = 0
        self._floor = 0
        """The total behind the line that was dropped last."""
        self._frames: dict[Projection, list[bytes]] = {}
        """By projection the frames of the first lines, rendered when first asked for."""

    def begin(self, life: Life, *, after: int = 0, lines: Sequence[bytes] = ()) -> None:
        """Another life, of which ``lines`` are known, the first being event ``after + 1``."""
        self.life = life
        self.tail = self._base = after
        self._lines.clear()
        self._ends.clear()
        self._frames.clear()
        self._floor = self._total
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
        total = self._total
        for line in lines:
            total += len(line) + _FRAME_BYTES
            self._ends.append(total)
        self._total = total
        if total - self._floor > self._recent_bytes:
            self._trim(bisect_right(self._ends, total - self._recent_bytes) + 1)

    def skip_to(self, tail: int) -> None:
        """Events up to ``tail`` exist, but not here."""
        self._trim(len(self._lines))
        self.tail = self._base = tail

    def _trim(self, count: int) -> None:
        count = min(count, len(self._lines))
        if count:
            self._floor = self._ends[count - 1]
            self._base += count
            del self._lines[:count]
            del self._ends[:count]
            for frames in self._frames.values():
                del frames[:count]  # one that has fewer is empty then, which is right again

    @property
    def remembers_after(self) -> int:
        """Everything behind this offset is in memory."""
        return self._base

    @property
    def recent_bytes(self) -> int:
        """What is in memory, about."""
        return self._total - self._floor

    def line(self, offset: int) -> bytes | None:
        """The line of one event, if it is in memory."""
        index = offset - self._base - 1
        return self._lines[index] if 0 <= index < len(self._lines) else None

    def recent(self, projection: Projection, after: int, limit_bytes: int) -> list[bytes] | None:
        """Frames of the events behind ``after``, about ``limit_bytes`` of them but at least one; None: not in memory.

        ``after`` is below ``tail``.
        """
        start = after - self._base
        if start < 0:
            return None
        frames = self._frames.get(projection)
        if frames is None:
            frames = self._frames[projection] = []
        if len(frames) < len(self._lines):
            self._render(projection, frames)
        before = self._ends[start - 1] if start else self._floor
        if self._total - before <= limit_bytes:
            return frames[start:] if start else frames.copy()
        end = bisect_right(self._ends, before + limit_bytes, lo=start)
        return frames[start : max(end, start + 1)]

    def _render(self, projection: Projection, frames: list[bytes]) -> None:
        head, incarnation, render = self.head, self.life.incarnation, projection.frame
        offset = self._base + len(frames)
        for line in self._lines[len(frames) :]:
            offset += 1
            frames.append(render(head, incarnation, offset, line))

    def wake(self) -> None:
        """Tells every follower."""
        for follower in tuple(self.followers):
            follower.wake()
