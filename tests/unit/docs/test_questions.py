"""What a question is searched by."""

from __future__ import annotations

import pytest

from kdcube.docs.searching.question import MAX_WORDS, read_question
from kdcube.docs.searching.words import stems


@pytest.mark.parametrize(
    ("text", "before", "words", "context"),
    [
        ("How do I open a port?", [], ("open", "port"), ()),
        ("And how do I close it?", ["How do I open a port?"], ("close",), ("open", "port")),
        ("why?", ["How do I open a port?", "and when?"], (), ("open", "port")),
        ("How does the firewall treat database replicas?", ["How do I open a port?"], None, ()),
        ("Which limits does that have?", ["ports", "what about taxis?"], ("limits",), ("taxis", "ports")),
        ("Hello!", [], (), ()),
        ("", ["Hello"], (), ()),
        ("KDCUBE_PORT", [], ("kdcube", "port"), ()),
        ('"; DROP TABLE files; -- NEAR(a) OR *', [], ("drop", "table", "files", "near"), ()),
    ],
)
def test_words_and_context(text, before, words, context):
    question = read_question(text, before)
    if words is not None:
        assert question.words == words
    assert question.context == context


def test_a_text_is_searched_by_its_beginning():
    assert len(read_question(" ".join(f"word{n}" for n in range(1000)), []).words) == MAX_WORDS


def test_words_are_compared_without_case_accents_and_endings():
    assert stems("Cafés RUNNING, naïve-runs") == stems("cafe runs Naive running")
