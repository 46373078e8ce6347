"""PDF: one section for each page, under the headings of the file's outline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pypdfium2

from kdcube.docs.reading.document import Document, Outline, Section, Unreadable, clean, plain_line

MAX_PAGES = 3_000
MAX_OUTLINE_ENTRIES = 5_000


def read_pdf(data: bytes, name: str) -> Document:
    """``name`` is the title of a file that tells none. Raises Unreadable."""
    try:
        file: Any = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise Unreadable("it is encrypted" if "password" in str(error).lower() else f"broken PDF ({error})") from error
    try:
        if len(file) > MAX_PAGES:
            raise Unreadable(f"it has {len(file)} pages, over the limit of {MAX_PAGES}")
        title = plain_line(file.get_metadata_value("Title") or "")
        outline = _outline(file)
        headings = Outline()
        sections: list[Section] = []
        for number in range(len(file)):
            here = [entry for entry in outline if entry[0] == number]
            for level, heading, lines in _parted(_page_lines(file, number), here):
                if heading:
                    headings.enter(level, heading)
                if text := paragraphs(lines):
                    sections.append(Section(headings.path, f"page={number + 1}", text))
    except pypdfium2.PdfiumError as error:
        raise Unreadable(f"broken PDF ({error})") from error
    finally:
        file.close()
    if not sections:
        raise Unreadable("it has no text (scanned pages?)")
    return Document(title or (outline[0][2] if outline else "") or name, sections)


def _outline(file: Any) -> list[tuple[int, int, str]]:
    """(page from 0, level, heading), in the order of the pages."""
    found: list[tuple[int, int, str]] = []
    for bookmark in file.get_toc(max_depth=6):
        target = bookmark.get_dest()
        page = target.get_index() if target is not None else None
        if page is not None:
            found.append((page, bookmark.level + 1, plain_line(bookmark.get_title())))
        if len(found) == MAX_OUTLINE_ENTRIES:
            break
    return sorted(found, key=lambda entry: entry[0])


def _page_lines(file: Any, number: int) -> list[str]:
    page = file[number]
    try:
        text_page = page.get_textpage()
        try:
            text = clean(text_page.get_text_bounded().replace("\ufffe", "-"))  # what PDFium makes of a soft hyphen
            return [" ".join(line.split()) for line in text.splitlines()]
        finally:
            text_page.close()
    finally:
        page.close()


def _parted(lines: list[str], entries: list[tuple[int, int, str]]) -> Iterator[tuple[int, str, list[str]]]:
    """(level, heading, lines) of a page, parted where headings stand; one that is not found begins with the page."""
    found: list[tuple[int, int, str]] = []
    for _, level, heading in entries:
        start = next((number for number, line in enumerate(lines) if line == heading), -1)
        found.append((start, level, heading))
    found.sort(key=lambda entry: entry[0])
    starts = [max(start, 0) for start, _, _ in found]
    yield 0, "", lines[: starts[0] if starts else None]
    for (start, level, heading), end in zip(found, [*starts[1:], len(lines)], strict=False):
        yield level, heading, lines[start + 1 : end]


def paragraphs(lines: list[str]) -> str:
    """Lines of a page joined to paragraphs: one ends where a line is clearly shorter than the page is wide."""
    width = max(map(len, lines), default=0)
    blocks: list[str] = []
    current = ""
    for line in lines:
        if line and current.endswith("-") and line[0].islower():
            current = current[:-1] + line
        elif line:
            current = f"{current} {line}".lstrip()
        if current and (not line or (line.endswith((".", ":", "!", "?")) and len(line) < 0.8 * width)):
            blocks.append(current)
            current = ""
    return "\n\n".join([*blocks, current] if current else blocks)
