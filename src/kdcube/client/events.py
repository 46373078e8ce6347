"""One event of a stream, as the KDCube client protocol has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from kdcube.client.sse import ServerSentEvent

ENDS = frozenset({"chat_complete", "chat_error"})
_JSON = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` is the cursor behind it (None: it has no place in the log), ``data`` its envelope."""

    id: str | None
    name: str
    data: dict[str, Any]

    @property
    def type(self) -> str:
        """The semantic type, such as ``turn.citations``."""
        return str(self.data.get("type", ""))

    @property
    def ends_turn(self) -> bool:
        return self.name in ENDS


def read_event(source: ServerSentEvent) -> Event:
    """Raises msgspec.DecodeError for data that is no JSON object."""
    return Event(source.id, source.name, _JSON.decode(source.data))
