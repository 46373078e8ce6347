"""Projections: how the events of a log look to the clients of one protocol. Each is a sibling file."""

from __future__ import annotations

from typing import Protocol


class Projection(Protocol):
    """Turns lines of a log (``protocol.events``) into the bytes of a client protocol."""

    def frame(self, head: bytes, incarnation: int, offset: int, line: bytes) -> bytes:
        """One event, to stand behind ``id: <cursor without its offset>``: it begins with the rest of the cursor."""
        ...

    def aside(self, head: bytes, line: bytes) -> bytes:
        """One event that stands in no log and carries no id (queue positions, notices)."""
        ...
