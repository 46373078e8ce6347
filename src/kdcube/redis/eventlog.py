"""The log of a turn: appends under the fence, reads from a cursor, changes as they are published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kdcube.protocol.cursors import Position
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Fenced
from kdcube.redis.scripts import Script

_APPEND = Script("append")
_REOPEN = Script("reopen")
_READ = Script("read_log")

LOG_MAX_BYTES = 16 * 1024 * 1024
PAGE_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Appended:
    """The log's tail after the append."""

    tail: int


@dataclass(frozen=True, slots=True)
class Rewound:
    """The log is shorter than the writer knows, or gone: it must be reopened with a snapshot."""


@dataclass(frozen=True, slots=True)
class Full:
    """The log has reached its cap: the turn fails with ``output_limit``."""


class LogChange(NamedTuple):
    """A published change: the events ``previous + 1`` to ``offset`` of an incarnation.

    ``lines`` is None when they are too large to be published (read them from the log). ``head`` is there when an
    attempt or an incarnation begins. ``closed``: the last of them is terminal.
    """

    epoch: int
    incarnation: int
    previous: int
    offset: int
    closed: bool
    head: bytes | None
    lines: list[bytes] | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of a log after a position.

    ``epoch`` None: Valkey has none now. ``known``: the turn is in the working state. ``exists`` False: no log (not
    started, expired or lost). ``lines`` are the events ``after + 1`` to ``offset``; when ``offset < tail``, read on.
    """

    epoch: int | None
    known: bool
    exists: bool
    incarnation: int
    tail: int
    closed: bool
    head: bytes
    offset: int
    lines: list[bytes]


def decode_change(payload: bytes) -> LogChange:
    """Decodes a message of the log's channel."""
    header, _, rest = payload.partition(b"\n")
    epoch, incarnation, previous, offset, status, head_bytes = header.split(b" ")
    n_head = int(head_bytes)
    lines = rest[n_head:]
    return LogChange(
        int(epoch),
        int(incarnation),
        int(previous),
        int(offset),
        status == b"closed",
        rest[:n_head] if n_head else None,
        lines.split(b"\n") if lines else None,
    )


def next_line(payload: bytes, epoch: int, incarnation: int, tail: int) -> bytes | None:
    """The line of a message that adds one event to a log that stands at ``tail``, as nearly all do; decodes nothing.

    None: it says something else, see ``decode_change``.
    """
    header = b"%d %d %d %d open 0\n" % (epoch, incarnation, tail, tail + 1)
    return payload[len(header) :] or None if payload.startswith(header) else None


class EventLogs:
    """The logs of one partition."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def append(
        self, turn_id: str, claim_id: str, *, epoch: int, seq: int, tail: int, count: int, lines: bytes
    ) -> Appended | Rewound | Full | Fenced:
        """Appends ``count`` events after ``tail``; ``lines`` are joined by line feeds, ``seq`` counts writes from 1."""
        keys = self._keys
        reply = await _APPEND(
            self._connection,
            [keys.epoch, keys.claims, keys.log(turn_id), keys.log_meta(turn_id)],
            [epoch, turn_id, claim_id, seq, tail, count, lines, keys.log_channel(turn_id), LOG_MAX_BYTES],
        )
        match reply[0]:
            case b"ok":
                return Appended(reply[1])
            case b"rewound":
                return Rewound()
            case b"full":
                return Full()
            case _:
                return Fenced()

    async def reopen(
        self, turn_id: str, claim_id: str, *, epoch: int, seq: int, line: bytes, head: bytes, incarnation: int
    ) -> Position | Fenced:
        """Begins a new incarnation, at least ``incarnation``, with the snapshot ``line`` as its first event."""
        keys = self._keys
        reply = await _REOPEN(
            self._connection,
            [keys.epoch, keys.claims, keys.log(turn_id), keys.log_meta(turn_id)],
            [epoch, turn_id, claim_id, seq, line, head, keys.log_channel(turn_id), incarnation],
        )
        return Fenced() if reply[0] == b"fenced" else Position(reply[1], reply[2])

    async def read(self, turn_id: str, after: int = 0) -> LogPage:
        """One page of the log after ``after`` events. The caller compares the incarnation with its own."""
        keys = self._keys
        epoch, known, incarnation, tail, status, head, entries = await _READ(
            self._connection,
            [keys.epoch, keys.turns, keys.log(turn_id), keys.log_meta(turn_id)],
            [turn_id, after, PAGE_ENTRIES],
        )
        lines: list[bytes] = []
        offset = after
        for last, data in entries:
            batch: list[bytes] = data.split(b"\n")
            first = last - len(batch) + 1
            lines.extend(batch[max(0, offset + 1 - first) :])
            offset = last
        return LogPage(
            int(epoch) if epoch else None,
            known == 1,
            incarnation > 0,
            incarnation,
            tail,
            status == b"closed",
            head,
            offset,
            lines,
        )
