"""What PostgreSQL can hold: text, JSON and titles."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcube.postgres.rows import TITLE_MAX_CHARS, storable, title_of, to_json

ANY_TEXT = st.text(st.characters(codec=None))


@given(ANY_TEXT)
def test_any_text_becomes_storable_once_and_for_all(text: str) -> None:
    held = storable(text)
    assert "\0" not in held
    held.encode("utf-8")
    assert storable(held) == held


@pytest.mark.parametrize(
    ("text", "held"), [("plain", "plain"), ("né", "né"), ("a\0b", "a�b"), ("\ud800x", "�x"), ("\ud83d\ude00", "😀")]
)
def test_only_what_cannot_be_held_changes(text: str, held: str) -> None:
    assert storable(text) == held


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_without_nul(value: object) -> None:
    encoded = to_json(value)
    assert not holds_nul(msgspec.json.decode(encoded))


def holds_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(holds_nul(key) or holds_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(map(holds_nul, value))
    return isinstance(value, str) and "\0" in value


def test_a_backslash_before_u0000_is_no_nul() -> None:
    assert msgspec.json.decode(to_json({"k": "\\u0000"})) == {"k": "\\u0000"}


def test_what_json_cannot_say_is_an_error() -> None:
    with pytest.raises(TypeError):
        to_json({"k": object()})


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("", ""),
        (" \n\n  Hello   there \nmore", "Hello there"),
        ("x" * 200, "x" * 79 + "…"),
        ("word " * 40, ("word " * 15).strip() + "…"),
        ("a\0b", "a�b"),
    ],
)
def test_a_title_is_the_first_line_that_says_something(message: str, title: str) -> None:
    assert title_of(message) == title


@given(ANY_TEXT)
def test_a_title_is_short_and_storable(message: str) -> None:
    title = title_of(message)
    assert len(title) <= TITLE_MAX_CHARS
    assert storable(title) == title
