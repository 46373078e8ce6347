"""Citations of a turn: each place in the documents has one number, given out in the order of first use."""

from __future__ import annotations

import re
from urllib.parse import quote as percent_encoded

from kdcube.docs.searching.index import Passage
from kdcube.sdk import Turn

_MAX_QUOTE_CHARS = 300


class Citations:
    def __init__(self, turn: Turn, base_uri: str) -> None:
        self._turn = turn
        self._base_uri = base_uri
        self._numbers: dict[tuple[str, str], int] = {}

    async def number(self, passage: Passage, quote: str) -> int:
        """The number of the passage's place; a new place is cited with this quote."""
        place = (passage.path, passage.anchor)
        if place not in self._numbers:
            uri = self._base_uri + percent_encoded(passage.path)
            self._numbers[place] = await self._turn.cite(
                passage.title,
                f"{uri}#{percent_encoded(passage.anchor, safe='=')}" if passage.anchor else uri,
                heading=passage.heading or None,
                quote=shortened(plain(quote), _MAX_QUOTE_CHARS),
            )
        return self._numbers[place]


def source_line(passage: Passage) -> str:
    """``docs/x.md › Start › Ports``, without the title where the headings begin with it."""
    headings = passage.heading.removeprefix(passage.title).removeprefix(" › ")
    return f"`{passage.path}`" + (f" › {headings}" if headings else "")


def plain(text: str) -> str:
    """Markdown without emphasis and fences, on one line."""
    return " ".join(re.sub(r"(\*{1,3})(?=\S)(.+?)(?<=\S)\1|(?:```|~~~)\w*", r"\2", text).split())


def shortened(text: str, limit_chars: int) -> str:
    """Cut between words, with an ellipsis."""
    if len(text) <= limit_chars:
        return text
    return text[: limit_chars - 1].rsplit(" ", 1)[0] + "…"
