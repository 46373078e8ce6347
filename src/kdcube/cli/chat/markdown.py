"""Markdown that grows: what of it is complete, and how it looks on a terminal."""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.text import Text
from rich.theme import Theme

from kdcube.cli.chat.view import harmless

_MAX_COLUMNS = 100
"""Longer lines are hard to read."""


class Blocks:
    """Takes Markdown piece by piece, and gives away the blocks behind which another has begun.

    So what was drawn of them stands for good, and only the last block is drawn again as it grows. A link that is
    defined in a later block stays as it was written.
    """

    def __init__(self) -> None:
        self._parser = MarkdownIt().enable("table")
        self._parser.core.ruler.enableOnly(["normalize", "block"])
        self._parts: list[str] = []
        self._line_came = False

    def add(self, text: str) -> None:
        text = harmless(text)
        self._parts.append(text)
        self._line_came = self._line_came or "\n" in text

    def take(self) -> str:
        """The source of the blocks that are complete, which are given away once; empty when there are none."""
        if not self._line_came:
            return ""
        self._line_came = False
        text = self.rest
        starts = [token.map[0] for token in self._parser.parse(text) if token.level == 0 and token.map]
        if len(starts) < 2 or starts[-1] == starts[0]:
            return ""
        end = 0
        for _ in range(starts[-1]):
            end = text.index("\n", end) + 1
        self._parts = [text[end:]]
        return text[:end]

    @property
    def rest(self) -> str:
        """The block that still grows."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def finish(self) -> str:
        """The rest, as nothing will follow."""
        rest, self._parts = self.rest, []
        return rest


_THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "none"})
"""Without the backgrounds of rich's own, which fit dark terminals alone."""


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _Heading}


class Painter:
    """Makes terminal text (lines with ANSI styles) of Markdown; without ``styles`` its source stays as it is."""

    def __init__(self, console: Console, *, styles: bool) -> None:
        self._console = console
        self._console.push_theme(_THEME)
        self.styles = styles

    def markdown(self, source: str, columns: int) -> str:
        """Lines, each ended, with no blank one around them."""
        if not self.styles:
            return source.strip("\n") + "\n"
        width = max(20, min(columns - 1, _MAX_COLUMNS))
        document = _Markdown(source, code_theme="ansi_dark", hyperlinks=False)
        with self._console.capture() as captured:
            self._console.print(document, width=width)
        lines = [line.rstrip() for line in captured.get().split("\n")]
        return "\n".join(lines).strip("\n") + "\n"

    def line(self, text: str, style: str = "", *, indent: int = 0, columns: int = 1_000) -> str:
        """A text that ends its line, in one style; lines that ``columns`` breaks are indented as the first one."""
        shown = Text(harmless(text), style=style if self.styles else "")
        with self._console.capture() as captured:
            for line in shown.wrap(self._console, max(20, columns - 1 - indent)):
                line.pad_left(indent)
                self._console.print(line, soft_wrap=True)
        return captured.get()
