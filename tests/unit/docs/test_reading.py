"""Files of each kind into sections, passages and pieces."""

from __future__ import annotations

import pytest

from kdcube.docs.reading.document import Document, Section, Unreadable
from kdcube.docs.reading.files import read_document
from kdcube.docs.reading.passages import MAX_BLOCK_CHARS, TARGET_CHARS, passages
from kdcube.docs.searching.units import units


def read(text: str, path: str) -> Document:
    return read_document(text.encode(), path, max_chars=1_000_000)


def sections(document: Document) -> list[tuple[tuple[str, ...], str, str]]:
    return [(section.headings, section.anchor, section.text) for section in document.sections if section.text]


def test_markdown_by_headings():
    document = read(
        "before\n\n# The `Title`\n\nlead <!-- hidden -->\n\nSecond\n------\n\n```\n# no heading\n\n## nor this\n```\n"
        "\n## [Second](x.md)\n\n> # quoted\n\nend",
        "a.md",
    )
    assert document.title == "The Title"
    assert sections(document) == [
        ((), "", "before"),
        (("The Title",), "the-title", "lead "),
        (("The Title", "Second"), "second", "```\n# no heading\n\n## nor this\n```"),
        (("The Title", "Second"), "second-1", "> # quoted\n\nend"),
    ]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("---\ntitle: 'From matter'\n---\n# Heading\n\nx", "From matter"),
        ("---\nother: 1\n---\n# Heading\n\nx", "Heading"),
        ("## Only a smaller one\n\nx", "notes"),
        ("\ufeffplain", "notes"),
        ("", "notes"),
    ],
)
def test_the_title_of_markdown(text, title):
    assert read(text, "deep/notes.md").title == title


def test_html_as_a_reader_sees_it():
    document = read(
        "<title>T</title><body><nav>menu</nav><p>Hello <b>there</b>,<br>you &amp; I</p><h2 id='own'>A ¶</h2>"
        "<ul><li>one<li>two <code>x = 1</code></ul><pre>a\n\n  b</pre>"
        "<table><tr><th>k<th>v<tr><td>1<td>a | b</table>"
        "<section id=outer><h3>B</h3>text<div>more</div></section><script>no</script>",
        "x.html",
    )
    assert document.title == "T"
    assert sections(document) == [
        ((), "", "Hello there,\nyou & I"),
        (
            ("A",),
            "own",
            "- one\n- two `x = 1`\n\n```\na\n\n  b\n```\n\n| k | v |\n| --- | --- |\n| 1 | a \\| b |",
        ),
        (("A", "B"), "outer", "text\n\nmore"),
    ]


def test_the_encoding_that_a_page_names():
    page = "<meta charset='iso-8859-1'><p>grün".encode("latin-1")
    assert sections(read_document(page, "x.html", max_chars=1000)) == [((), "", "grün")]
    assert sections(read_document("p\u00e4".encode("utf-16"), "x.txt", max_chars=1000)) == [((), "", "p\u00e4")]
    unknown = b"<meta charset=klingon><p>plain"
    assert sections(read_document(unknown, "x.html", max_chars=1000)) == [((), "", "plain")]


def test_text_by_underlined_lines():
    document = read("=====\nTitle\n=====\n\nlead\n\nPart\n----\n\na\n\n----------\n\nb\n\nOther\n-----\nc", "x.rst")
    assert document.title == "Title"
    assert sections(document) == [
        (("Title",), "title", "lead"),
        (("Title", "Part"), "part", "a\n\n----------\n\nb"),
        (("Title", "Other"), "other", "c"),
    ]


def test_too_much_text_is_refused():
    with pytest.raises(Unreadable, match="over the limit"):
        read_document(b"word " * 100, "x.md", max_chars=100)


def passages_of(text: str) -> list[str]:
    return [passage.text for passage in passages(Document("t", [Section((), "", text)]))]


def test_passages_are_whole_blocks():
    paragraph = "word " * 150
    code = "Like this:\n\n```\n" + "line\n\n" * 200 + "```"
    found = passages_of(f"{paragraph}\n\n{paragraph}\n\n{code}\n\nend")
    assert [len(text) < TARGET_CHARS for text in found] == [True, False, True]
    assert found[1].count("```") == 2
    assert "Like this:" in found[1]
    assert found[2] == "end"


@pytest.mark.parametrize(
    "text",
    [
        "word " * 5_000,
        "x" * 20_000,
        "- item\n" * 3_000,
        "| a | b |\n| - | - |\n" + "| 1 | 2 |\n" * 3_000,
        "```\n" + "line\n" * 5_000 + "```",
        "```\nnever closed " + "x" * 20_000,
    ],
)
def test_no_passage_is_too_long(text):
    found = passages_of(text)
    assert max(map(len, found)) <= MAX_BLOCK_CHARS + 100
    if "| a |" in text:
        assert all(part.startswith("| a | b |") for part in found)
    if text.startswith("```"):
        assert all(part.endswith(part.split("\n", 1)[0]) for part in found), "each part is code"


def test_pieces_of_a_passage():
    found = units(
        "First one. Second, e.g. this one. See [there](http://x/(y) 'z').\n\n- one\n  more\n- two\n\n"
        "| k | v | w |\n| --- | --- | --- |\n| a | 1 | 2 |\n| | 3 | |\n\n```\ncode\n```"
    )
    assert [(unit.kind, unit.text) for unit in found] == [
        ("sentence", "First one."),
        ("sentence", "Second, e.g. this one."),
        ("sentence", "See there."),
        ("item", "one more"),
        ("item", "two"),
        ("row", "**a**: 1; 2"),
        ("row", "3"),
        ("code", "```\ncode\n```"),
    ]
