"""Markdown that grows is given away block by block, and looks as if it had come at once."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kdcube.cli.chat.markdown import Blocks, Painter
from kdcube.cli.chat.view import harmless

DOCUMENT = """\
# A title

Two lines of
one paragraph with `code`, **bold** and a [link](https://example.org).

1. first
2. second

   with a paragraph of its own

| a | b |
| --- | --- |
| 1 | 2 |

```python
def f():

    return "# no heading"
```

> quoted
> twice

- one
- two
Setext
------
The end."""


def painter(*, styles: bool = True, width: int = 80) -> Painter:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=width)
    return Painter(console, styles=styles)


def grown(pieces: list[str]) -> list[str]:
    blocks, taken = Blocks(), []
    for piece in pieces:
        blocks.add(piece)
        taken.append(blocks.take())
    return [part for part in (*taken, blocks.finish()) if part]


def in_pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 1000), max_size=60))
def test_nothing_is_lost_or_doubled(cuts):
    assert "".join(grown(in_pieces(DOCUMENT, cuts))) == DOCUMENT


@settings(max_examples=40)
@given(st.lists(st.integers(0, 1000), max_size=60))
def test_it_looks_as_if_it_had_come_at_once(cuts):
    paint = painter()
    lines = [paint.markdown(part, 80) for part in grown(in_pieces(DOCUMENT, cuts))]
    drawn = [line for part in lines for line in part.split("\n") if line.strip()]
    assert drawn == [line for line in paint.markdown(DOCUMENT, 80).split("\n") if line.strip()]


def test_a_block_is_given_away_when_another_has_begun():
    blocks = Blocks()
    blocks.add("one\n\n")
    assert blocks.take() == ""
    blocks.add("two")
    assert blocks.take() == ""  # it may still become part of something: nothing says that its line has ended
    blocks.add("\n")
    assert (blocks.take(), blocks.rest) == ("one\n\n", "two\n")


def test_an_open_code_block_is_kept_whole():
    blocks = Blocks()
    blocks.add("```\na\n\nb\n\n# c\n")
    assert blocks.take() == ""


@pytest.mark.parametrize("order", ["\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b2J", "\x08", "\r", "\x00", "\x7f"])
def test_an_answer_gives_no_orders_to_the_terminal(order):
    text = "".join(grown([f"a{order}b\n\tc"]))
    assert text == harmless(text)
    assert text.startswith("a")
    assert text.endswith("b\n\tc")
    assert not set(text) & set("\x1b\x9b\x07\x08\r\x00\x7f")


def test_lines_fit_the_terminal_and_are_readable_on_a_wide_one():
    text = "word " * 200
    assert max(len(line) for line in painter().markdown(text, 40).split("\n")) < 40
    assert max(len(line) for line in painter(width=300).markdown(text, 300).split("\n")) <= 100


def test_without_styles_markdown_stays_as_it_is():
    assert painter(styles=False).markdown("\n**bold**\n", 80) == "**bold**\n"


def test_a_line_is_wrapped_under_its_beginning():
    shown = painter(styles=False).line("some words that need more than one line", indent=3, columns=24)
    assert shown == "   some words that need\n   more than one line\n"
