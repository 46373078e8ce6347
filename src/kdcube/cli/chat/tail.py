"""The lines at the end of an answer that may change still, for the screen."""

from __future__ import annotations

from itertools import groupby

from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.layout.controls import GetLinePrefixCallable, UIContent, UIControl


class Tail(UIControl):
    """Lines with ANSI styles, each complete in itself. A line that stays as it was costs nothing."""

    def __init__(self) -> None:
        self._lines: list[StyleAndTextTuples] = []
        self._known: dict[str, StyleAndTextTuples] = {}

    @property
    def rows(self) -> int:
        return len(self._lines)

    def show(self, lines: list[str]) -> None:
        known = self._known
        self._known = {line: known[line] if line in known else _fragments(line) for line in lines}
        self._lines = [self._known[line] for line in lines]

    def preferred_height(
        self, width: int, max_available_height: int, wrap_lines: bool, get_line_prefix: GetLinePrefixCallable | None
    ) -> int | None:
        return len(self._lines)

    def create_content(self, width: int, height: int) -> UIContent:
        return UIContent(self._lines.__getitem__, line_count=len(self._lines), show_cursor=False)


def _fragments(line: str) -> StyleAndTextTuples:
    """One for each run of a style: prompt_toolkit makes one for each character."""
    runs = groupby(to_formatted_text(ANSI(line)), key=lambda fragment: fragment[0])
    return [(style, "".join(fragment[1] for fragment in run)) for style, run in runs]
