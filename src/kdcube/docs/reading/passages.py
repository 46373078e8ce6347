"""Passages: what is searched, shown and cited. Each is a run of whole blocks of one section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kdcube.docs.reading.document import Document

TARGET_CHARS = 1_200
"""A passage takes blocks up to here."""
MAX_BLOCK_CHARS = 4_000
"""A code block up to here stays whole; other blocks are cut at the target."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    headings: tuple[str, ...]
    anchor: str
    text: str


def passages(document: Document) -> Iterator[Passage]:
    for section in document.sections:
        taken: list[str] = []
        size = 0
        for block in _fitting(blocks(section.text)):
            if taken and size + len(block) > TARGET_CHARS and not (is_code(block) and _introduces(taken[-1])):
                yield Passage(section.headings, section.anchor, "\n\n".join(taken))
                taken, size = [], 0
            taken.append(block)
            size += len(block)
        if taken:
            yield Passage(section.headings, section.anchor, "\n\n".join(taken))


def blocks(text: str) -> Iterator[str]:
    """Paragraphs, lists, tables and code blocks, in order; a code block is never parted, however many empty lines."""
    lines: list[str] = []
    fence: str | None = None
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence is not None:
            lines.append(line)
            if mark and mark[1].startswith(fence) and line.strip() == mark[1]:
                yield "\n".join(lines)
                lines, fence = [], None
        elif mark:
            if lines:
                yield "\n".join(lines)
            lines, fence = [line], mark[1]
        elif line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join([*lines, fence] if fence else lines)


def is_code(block: str) -> bool:
    return _FENCE.match(block) is not None


def is_table(block: str) -> bool:
    lines = block.split("\n", 2)
    return len(lines) > 1 and lines[0].lstrip().startswith("|") and re.fullmatch(r"[\s|:-]+", lines[1]) is not None


def _introduces(block: str) -> bool:
    return block.rstrip().endswith(":")


def _fitting(found: Iterator[str]) -> Iterator[str]:
    """Blocks that are too long, in parts that are none."""
    for block in found:
        if is_code(block):
            yield from [block] if len(block) <= MAX_BLOCK_CHARS else _code_parts(block)
        elif len(block) <= TARGET_CHARS:
            yield block
        elif is_table(block):
            head, rule, *rows = block.split("\n")
            yield from ("\n".join([head, rule, *part]) for part in _packed(rows, "\n"))
        elif "\n" in block:
            yield from ("\n".join(part) for part in _packed(block.split("\n"), "\n"))
        else:
            yield from (" ".join(part) for part in _packed(_SENTENCE_END.split(block), " "))


def _code_parts(block: str) -> Iterator[str]:
    opening, *lines = block.split("\n")
    fence = opening.lstrip()[:3] * 2  # longer than what stands inside
    for part in _packed(lines[:-1], "\n"):
        yield "\n".join([fence, *part, fence])


def _packed(parts: list[str], glue: str) -> Iterator[list[str]]:
    """Neighbours together, up to the target; a part that is too long alone is cut."""
    taken: list[str] = []
    size = 0
    for long in parts:
        for start in range(0, len(long), TARGET_CHARS):
            part = long[start : start + TARGET_CHARS]
            if taken and size + len(part) > TARGET_CHARS:
                yield taken
                taken, size = [], 0
            taken.append(part)
            size += len(part) + len(glue)
    if taken:
        yield taken
