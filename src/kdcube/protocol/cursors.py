"""Cursors: where a reader stands. Text without spaces, so that a cursor fits an SSE ``id:`` line and a query.

They are opaque to clients. They carry no authority: the caller's right to what they name is checked at every use.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from kdcube.protocol.errors import InvalidInput

MAX_LIVE_TURNS = 32
"""Live turns that one user stream follows at most (rule 18)."""

_CURSOR_MAX_CHARS = 4096
_TURN = re.compile(r"t1\.(\d{1,15})\.([0-9a-f]{32})\.(\d{1,9})\.(\d{1,15})(e?)")
_USER = re.compile(r"u1\.(\d{1,15})\.([0-9a-f]{8})\.([0-9a-f]{8})\.(\d{1,15})((?:;[0-9a-f]{32}\.\d{1,9}\.\d{1,15}e?)*)")


def user_tag(user_id: str) -> str:
    """Eight digits that tell whose cursor it is without showing who."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one log: after ``offset`` events of ``incarnation``. (0, 0) is the beginning.

    ``ended``: the last of them was the terminal one, so that nothing is left to tell, whatever becomes of the log.
    """

    incarnation: int = 0
    offset: int = 0
    ended: bool = False

    def format(self) -> str:
        return f"{self.incarnation}.{self.offset}{'e' * self.ended}"


@dataclass(frozen=True, slots=True)
class TurnCursor:
    """A place in one turn's log under one epoch of Valkey."""

    epoch: int
    turn_id: str
    position: Position

    def format(self) -> str:
        return f"t1.{self.epoch}.{self.turn_id}.{self.position.format()}"


@dataclass(frozen=True, slots=True)
class UserCursor:
    """A place in a user's stream: the feed's offset and the position in each live turn's log.

    ``feed`` is the random name of the feed's life: a feed that expired and began again has another.
    """

    epoch: int
    tag: str
    feed: str
    offset: int
    live: dict[str, Position] = field(default_factory=dict[str, Position])

    def format(self) -> str:
        turns = "".join(f";{turn}.{at.format()}" for turn, at in self.live.items())
        return f"u1.{self.epoch}.{self.tag}.{self.feed}.{self.offset}{turns}"


def parse_turn_cursor(text: str) -> TurnCursor:
    """Raises InvalidInput when ``text`` is no turn cursor."""
    match = _TURN.fullmatch(text)
    if match is None:
        raise _malformed()
    epoch, turn_id, incarnation, offset, ended = match.groups()
    return TurnCursor(int(epoch), turn_id, Position(int(incarnation), int(offset), bool(ended)))


def parse_user_cursor(text: str) -> UserCursor:
    """Raises InvalidInput when ``text`` is no user cursor or names more than MAX_LIVE_TURNS turns."""
    match = _USER.fullmatch(text) if len(text) <= _CURSOR_MAX_CHARS else None
    if match is None:
        raise _malformed()
    epoch, tag, feed, offset, turns = match.groups()
    live: dict[str, Position] = {}
    for part in turns.split(";")[1:]:
        turn_id, incarnation, at = part.split(".")
        live[turn_id] = Position(int(incarnation), int(at.removesuffix("e")), at.endswith("e"))
    if len(live) > MAX_LIVE_TURNS:
        raise _malformed()
    return UserCursor(int(epoch), tag, feed, int(offset), live)


def _malformed() -> InvalidInput:
    return InvalidInput("cursor", "the cursor is malformed; send one that this service issued, or none to start anew")
