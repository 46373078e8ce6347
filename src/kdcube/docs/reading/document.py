"""What is read from a file, whatever its format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_MAX_HEADING_CHARS = 200


class Unreadable(Exception):
    """The file is left out; the message says why, for the log."""


@dataclass(frozen=True, slots=True)
class Section:
    """The text below one heading, up to the next one."""

    headings: tuple[str, ...]
    """From the top of the document down to this section's own; empty before the first."""
    anchor: str
    """What leads there behind the ``#`` of a link; empty for the top."""
    text: str
    """Markdown: blocks with an empty line between them."""


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    sections: list[Section]


@dataclass(slots=True)
class Outline:
    """The headings above the current place."""

    _levels: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def enter(self, level: int, heading: str) -> None:
        while self._levels and self._levels[-1][0] >= level:
            self._levels.pop()
        self._levels.append((level, plain_line(heading)[:_MAX_HEADING_CHARS]))

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(heading for _, heading in self._levels if heading)


class Slugs:
    """Anchors of headings as GitHub makes them; a repeated heading gets a number."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def of(self, heading: str) -> str:
        slug = re.sub(r"[^\w\- ]", "", plain_line(heading).lower()).replace(" ", "-")
        used = self._used.get(slug, 0)
        self._used[slug] = used + 1
        return f"{slug}-{used}" if used else slug


def plain_line(text: str) -> str:
    """Markdown of one line without its marks, white space made single."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)\s]*(?:\s[^)]*)?\)", r"\1", text)
    text = re.sub(r"[`*]+", "", text)
    return " ".join(text.split())


_CONTROLS = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def clean(text: str) -> str:
    """Without characters that no terminal or store should get: controls, and halves of surrogate pairs."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
