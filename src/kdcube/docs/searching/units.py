"""A passage in the pieces that an answer is made of: sentences, list items, table rows, code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from kdcube.docs.reading.passages import blocks, is_code, is_table
from kdcube.docs.searching.words import STOPWORDS, stem, stems, words

_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)\s+(?=[A-Z0-9`\"'(\[*])")
_LINK = re.compile(r"!?\[([^\]]*)\]\((?:[^()\s]|\([^()]*\))*(?:\s[^)]*)?\)")
_LONG_ITEM_CHARS = 360
CELL = "; "
"""Between the cells of a row, behind the first."""
_DEFINING_CELLS = 3
_TELLING_WORDS = 2
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class Unit:
    kind: Literal["sentence", "item", "row", "code"]
    text: str
    """Markdown for an answer, on one line; code as it is written, with its fences."""
    block: int
    """Which block of the passage it is of, from 0."""

    @cached_property
    def stems(self) -> tuple[str, ...]:
        return tuple(stems(self.text))

    @cached_property
    def content(self) -> tuple[str, ...]:
        """The stems without those of words that say nothing."""
        return tuple(stem(word) for word in words(self.text) if word not in STOPWORDS)

    def defines(self, asked: Sequence[str]) -> bool:
        """It says what these stems are: a row whose first cell is just that, else what begins with them.

        Rows of many cells, and those with little but numbers, are figures.
        """
        told = sum(word.isalpha() for word in self.content) - len(asked)
        if not asked or self.kind == "code" or told < _TELLING_WORDS:
            return False
        if self.kind == "row":
            name, _, others = self.text.partition(":")
            if others.count(CELL) > _DEFINING_CELLS - 2:
                return False
            names = name.split(",")
            return any(_without_article(stems(name)) == list(asked) for name in names)
        return _without_article(list(self.stems))[: len(asked)] == list(asked)


def _without_article(found: list[str]) -> list[str]:
    return found[1:] if found and found[0] in _ARTICLES else found


def units(text: str) -> Iterator[Unit]:
    """Of a passage's text, in order."""
    for number, block in enumerate(blocks(text)):
        if is_code(block):
            yield Unit("code", block, number)
        elif is_table(block):
            yield from (Unit("row", row, number) for row in _rows(block) if row)
        elif any(map(_ITEM.match, block.split("\n"))):
            for item in _items(block):
                parts = [item] if len(item) <= _LONG_ITEM_CHARS else sentences(item)
                yield from (Unit("item", part, number) for part in parts)
        else:
            yield from (Unit("sentence", sentence, number) for sentence in sentences(_one_line(block)))


def sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(text) if sentence]


def _one_line(text: str) -> str:
    return " ".join(_LINK.sub(r"\1", text).split())


def _items(block: str) -> Iterator[str]:
    lines: list[str] = []
    for line in block.split("\n"):
        if _ITEM.match(line) and lines:
            yield _one_line("\n".join(lines))
            lines = []
        lines.append(_ITEM.sub("", line))
    yield _one_line("\n".join(lines))


def _rows(block: str) -> Iterator[str]:
    """``first cell: the others``; a row without a first cell belongs to the one above it."""
    for line in block.split("\n")[2:]:
        cells = [_one_line(cell).replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        first, *others = [cell for cell in cells if cell] or [""]
        name = first if re.search(r"[`*_]", first) else f"**{first}**"
        yield f"{name}: {CELL.join(others)}" if others else first
