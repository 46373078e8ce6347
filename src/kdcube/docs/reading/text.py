"""Plain text and reStructuredText: a line that is underlined is a heading."""

from __future__ import annotations

import re

from kdcube.docs.reading.document import Document, Outline, Section, Slugs

_UNDERLINE = re.compile(r"([=\-~^\"'#*+`:.])\1{2,}\s*")
_MAX_TITLE_CHARS = 120


def read_text(text: str, name: str) -> Document:
    """``name`` is the title of a text without headings. The level of a heading is the order in which its kind of
    underline appears first, as in reStructuredText.
    """
    lines = text.split("\n")
    outline, slugs, kinds = Outline(), Slugs(), list[str]()
    sections: list[Section] = []
    start, path, anchor, title = 0, (), "", ""
    for number in range(1, len(lines)):
        heading, underline = lines[number - 1].strip(), lines[number]
        if not heading or not _UNDERLINE.fullmatch(underline) or _UNDERLINE.fullmatch(heading):
            continue
        if len(heading) > _MAX_TITLE_CHARS or len(underline.strip()) < 0.6 * len(heading):
            continue
        overlined = number > 1 and lines[number - 2].strip() == underline.strip()
        sections.append(Section(path, anchor, _body(lines[start : number - 1 - overlined])))
        kind = underline[0] + ("2" if overlined else "")
        if kind not in kinds:
            kinds.append(kind)
        title = title or heading
        outline.enter(kinds.index(kind) + 1, heading)
        path, anchor, start = outline.path, slugs.of(heading), number + 1
    sections.append(Section(path, anchor, _body(lines[start:])))
    return Document(title or name, sections)


def _body(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).strip("\n")
