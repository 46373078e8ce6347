"""How a conversation is shown: the contract of the views, and the words that they share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from kdcube.client import Accepted, Citation, ConversationItem, Event, Reading, Turn
from kdcube.client.reading import RESYNC_NOTICE

_QUOTE_CHARS = 200
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class View(Protocol):
    """Shows one conversation, a turn at a time."""

    def asked(self, text: str) -> None:
        """The user's message, on its way."""
        ...

    def accepted(self, accepted: Accepted) -> None: ...

    def event(self, event: Event, reading: Reading, *, replaced: bool) -> None:
        """``reading`` has taken ``event`` already; ``replaced``: what was shown of the turn before does not hold."""
        ...

    def retrying(self, reason: str, pause_s: float) -> None:
        """The connection is lost, or the installation cannot answer now."""
        ...

    def ended(self, reading: Reading | None) -> None:
        """The turn is over; None when it was left."""
        ...

    def note(self, text: str) -> None:
        """Something to know."""
        ...

    def problem(self, text: str) -> None:
        """Something went wrong."""
        ...

    def command(self, line: str) -> None:
        """A command was typed."""
        ...

    def past(self, turn: Turn) -> None:
        """A turn of a conversation that is opened."""
        ...

    def listing(self, conversations: Sequence[ConversationItem], first: int) -> None:
        """Conversations, numbered from ``first``."""
        ...


def harmless(text: str) -> str:
    """Without control characters: what an answer holds must not give orders to the terminal."""
    return _CONTROLS.sub("", text)


def step_of(event: Event) -> dict[str, str] | None:
    """The step that an event tells of. The notice beside a resync is for clients that do not know one."""
    if event.name != "chat_step":
        return None
    step: dict[str, str] = event.data["event"]
    return None if step.get("step") == RESYNC_NOTICE else step


def queued(position: int | None, eta_s: float | None) -> str:
    if not position or position == 1:
        return "waiting"
    eta = "" if not eta_s else f", about {max(1, round(eta_s))} s"
    return f"queued: position {position}{eta}"


def ending(reading: Reading) -> str | None:
    """How the turn ended, unless it ended well."""
    told = str((reading.error or {}).get("message") or "")
    match reading.state:
        case "completed" | "applied":
            return None
        case "cancelled":
            return "cancelled"
        case "interrupted":
            return f"interrupted: {told or 'the system cut it off'}"
        case _:
            return f"failed: {told}" if told else "failed"


def _place(citation: Citation) -> str:
    if "://" in citation.uri:
        return citation.uri
    return citation.uri.partition("#")[0] or citation.title  # the fragment of a file is its heading once more


def source(citation: Citation) -> str:
    """The file, and where in it; without a heading its title."""
    if citation.heading:
        return f"{_place(citation)} › {citation.heading}"
    return (
        citation.uri if not citation.title or citation.title in citation.uri else f"{citation.title} ({citation.uri})"
    )


def quote(citation: Citation) -> str | None:
    """What it says there, on one line."""
    if not citation.quote:
        return None
    words = " ".join(citation.quote.split())
    return words if len(words) <= _QUOTE_CHARS else words[: _QUOTE_CHARS - 1].rstrip() + "…"


def when(iso: str) -> str:
    """A time as the list shows it: of this place, to the minute."""
    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M}"
