"""Markdown (CommonMark with tables): sections by headings, their text as it is written."""

from __future__ import annotations

import re
from itertools import pairwise

from markdown_it import MarkdownIt

from kdcube.docs.reading.document import Document, Outline, Section, Slugs, plain_line

_FRONT_MATTER = re.compile(r"\A---\n(.*?\n)?(?:---|\.\.\.)\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)

_parser = MarkdownIt("commonmark").enable("table")
_parser.core.ruler.enableOnly(["normalize", "block"])  # only the blocks are asked for: half of the time


def read_markdown(text: str, name: str) -> Document:
    """``name`` is the title of a document that has neither a heading of level 1 nor a title in its front matter."""
    title = None
    if matter := _FRONT_MATTER.match(text):
        named = re.search(r"^title:\s*(.+)$", matter[1] or "", re.MULTILINE)
        title = named and plain_line(named[1].strip("\"' "))
        text = text[matter.end() :]
    lines = text.split("\n")
    outline, slugs = Outline(), Slugs()
    sections: list[Section] = []
    path: tuple[str, ...] = ()
    anchor, start = "", 0
    tokens = _parser.parse(text)
    for token, inline in pairwise(tokens):
        if token.type != "heading_open" or token.level != 0 or token.map is None:
            continue
        sections.append(Section(path, anchor, _text(lines[start : token.map[0]])))
        level, heading = int(token.tag[1]), plain_line(inline.content)
        title = title or (heading if level == 1 else None)
        outline.enter(level, heading)
        path, anchor, start = outline.path, slugs.of(heading), token.map[1]
    sections.append(Section(path, anchor, _text(lines[start:])))
    return Document(title or name, sections)


def _text(lines: list[str]) -> str:
    return _COMMENT.sub("", "\n".join(lines)).strip("\n")
