"""Reads a file by its kind, within limits."""

from __future__ import annotations

from pathlib import Path

from kdcube.docs.reading.document import Document, Section, Unreadable, clean
from kdcube.docs.reading.html import encoding_of, read_html
from kdcube.docs.reading.markdown import read_markdown
from kdcube.docs.reading.pdf import read_pdf
from kdcube.docs.reading.suffixes import HTML, MARKDOWN, PDF, TEXT
from kdcube.docs.reading.text import read_text

_READERS = {
    **dict.fromkeys(MARKDOWN, read_markdown),
    **dict.fromkeys(HTML, read_html),
    **dict.fromkeys(TEXT, read_text),
}
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_MAX_REPLACED = 0.02


def read_document(data: bytes, path: str, *, max_chars: int) -> Document:
    """``path`` gives the kind and, without a better one, the title. Raises Unreadable."""
    name, suffix = Path(path).stem, Path(path).suffix.lower()
    if suffix in PDF:
        document = read_pdf(data, name)
    else:
        text = clean(_decoded(data, suffix))
        if len(text) > max_chars:
            raise Unreadable(f"its text has {len(text)} characters, over the limit of {max_chars}")
        document = _READERS[suffix](text, name)
    if sum(len(section.text) for section in document.sections) > max_chars:
        raise Unreadable(f"its text has more than {max_chars} characters")
    return Document(clean(document.title), [_cleaned(section) for section in document.sections])


def _cleaned(section: Section) -> Section:
    """Entities and PDFs may hold what no text file does."""
    return Section(tuple(map(clean, section.headings)), clean(section.anchor), clean(section.text))


def _decoded(data: bytes, suffix: str) -> str:
    encoding = next((encoding for mark, encoding in _BOMS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        raise Unreadable("it is binary")
    if encoding is None and suffix in HTML:
        encoding = encoding_of(data)
    try:
        return data.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):
        text = data.decode("utf-8", errors="replace")
    if text.count("\ufffd") <= _MAX_REPLACED * len(text):
        return text
    return data.decode("cp1252", errors="replace")  # old text of the West; whatever it is, it has no NUL
