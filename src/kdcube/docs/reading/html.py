"""HTML: what a reader sees, as Markdown, without navigation and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from kdcube.docs.reading.document import Document, Outline, Section, Slugs, plain_line

_UNSEEN = frozenset(
    ("script", "style", "noscript", "template", "svg", "nav", "footer", "aside", "form", "button", "iframe", "head")
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    (
        *("address", "article", "blockquote", "body", "center", "dd", "details", "div", "dl", "dt", "fieldset"),
        *("figcaption", "figure", "header", "hr", "html", "li", "main", "ol", "p", "section", "summary", "table"),
        *("tbody", "thead", "tfoot", "tr", "td", "th", "ul"),
    )
)
_ENCODING = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)
_PILCROWS = "¶#§ \t"


def encoding_of(data: bytes) -> str | None:
    """What the page says about its encoding."""
    found = _ENCODING.search(data[:2048])
    return found and found[1].decode("ascii")


def read_html(text: str, name: str) -> Document:
    """``name`` is the title of a page that has none."""
    tree = LexborHTMLParser(text)
    body = tree.body
    title_node = tree.css_first("title")
    title = plain_line(title_node.text()) if title_node else ""
    if body is None:
        return Document(title or name, [])
    page = _Page()
    page.read(body)
    headings = [section.headings for section in page.sections if section.headings]
    return Document(title or (headings[0][0] if headings else name), page.sections)


class _Page:
    """Walks the elements in the order of the document, without recursion: pages may be nested without end."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self._outline, self._slugs = Outline(), Slugs()
        self._path: tuple[str, ...] = ()
        self._anchor = ""
        self._blocks: list[str] = []
        self._inline: list[str] = []
        self._prefix = ""
        self._cells: list[str] | None = None
        self._rows: list[list[str]] = []

    def read(self, body: LexborNode) -> None:
        stack: list[tuple[LexborNode, bool]] = [(body, False)]
        while stack:
            node, leaving = stack.pop()
            tag = node.tag or ""
            if leaving:
                self._leave(tag)
            elif node.is_text_node:
                self._inline.append(re.sub(r"\s+", " ", node.text_content or ""))
            elif tag in _HEADINGS:
                self._heading(node, _HEADINGS[tag])
            elif tag == "pre":
                self._block()
                self._code(node.text())
            elif tag == "code":
                self._inline.append(f"`{' '.join(node.text().split())}`" if node.text().strip() else "")
            elif tag == "br":
                self._inline.append("\n")
            elif tag not in _UNSEEN and not tag.startswith(("-", "!")):
                self._enter(tag)
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(list(_children(node))))
        self._block()
        self._end_section()

    def _enter(self, tag: str) -> None:
        if tag == "tr":
            self._block()
            self._cells = []
        elif tag in ("td", "th") and self._cells is not None:
            self._inline = []
        elif tag in _BLOCKS and self._cells is None:
            self._block()
            if tag == "li":
                self._prefix = "- "

    def _leave(self, tag: str) -> None:
        if tag in ("td", "th") and self._cells is not None:
            self._cells.append(self._taken().replace("\n", " ").replace("|", "\\|"))
        elif tag == "tr" and self._cells is not None:
            self._rows.append(self._cells)
            self._cells = None
        elif tag == "table":
            self._table()
        elif tag in _BLOCKS and self._cells is None:
            self._block()

    def _heading(self, node: LexborNode, level: int) -> None:
        self._block()
        self._end_section()
        heading = plain_line(node.text()).strip(_PILCROWS)
        own = _anchor_of(node)
        slug = self._slugs.of(heading)
        self._outline.enter(level, heading)
        self._path, self._anchor = self._outline.path, own or slug

    def _taken(self) -> str:
        text = "".join(self._inline)
        self._inline = []
        return "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()

    def _block(self) -> None:
        if text := self._taken():
            self._blocks.append(self._prefix + text)
            self._prefix = ""

    def _code(self, text: str) -> None:
        if text.strip():
            fence = "```" if "```" not in text else "~~~~"
            self._blocks.append(f"{fence}\n{text.strip(chr(10)).rstrip()}\n{fence}")
        self._prefix = ""

    def _table(self) -> None:
        self._block()
        rows = [row for row in self._rows if any(row)]
        self._rows = []
        if not rows:
            return
        width = max(map(len, rows))
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
        lines.insert(1, "| " + " | ".join(["---"] * width) + " |")
        self._blocks.append("\n".join(lines))

    def _end_section(self) -> None:
        text = re.sub(r"\n\n(?=- )", "\n", "\n\n".join(self._blocks))  # list items stand together
        self.sections.append(Section(self._path, self._anchor, text))
        self._blocks = []


def _children(node: LexborNode) -> Iterator[LexborNode]:
    yield from node.iter(include_text=True)


def _anchor_of(heading: LexborNode) -> str:
    """Its own id, that of an anchor within, or that of a section that begins with it."""
    if own := heading.attributes.get("id"):
        return own
    for link in heading.css("a[id], a[name]"):
        if named := link.attributes.get("id") or link.attributes.get("name"):
            return named
    parent = heading.parent
    if parent is not None and parent.tag in ("section", "div", "article"):
        return parent.attributes.get("id") or ""
    return ""
