from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcube.config.documents import (
    CONTAINERS_MAX,
    DEPTH_MAX,
    MEMBERS_MAX,
    UnreadableDocument,
    dotted,
    read_json,
    shown,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(PLAIN, st.booleans())
def test_documents_are_read_as_they_are(document, ascii_only):
    assert read_json(json.dumps(document, ensure_ascii=ascii_only)) == document


def test_whole_numbers_may_have_a_fraction_of_nought():
    assert [type(number) for number in read_json("[5, 5.0, 5.5, -0.0, 1e3, 1e300]")] == [
        int,
        int,
        float,
        int,
        int,
        float,
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 200_000, f"is nested deeper than {DEPTH_MAX} levels"),
        ('{"a":' * 40_000 + "1" + "}" * 40_000, f"is nested deeper than {DEPTH_MAX} levels"),
        ("[" + "[]," * 80_000 + "[]]", f"has more than {CONTAINERS_MAX} objects and lists"),
        ("{" + ",".join(f'"{n}":0' for n in range(20_000)) + "}", f"an object with more than {MEMBERS_MAX} members"),
        ('"' + '\\"' * 120_000, "is no JSON: unterminated string starting at line 1, column 1"),
        ('"' * 120_001, "is no JSON: extra data at line 1, column 3"),
        ('"' + "\\" * 120_001, "is no JSON"),
        ("9" * 200_000, None),
        ("x" * 1_100_000, "is larger than 1048576 bytes"),
        ("ü" * 600_000, "is larger than 1048576 bytes"),
        ("[NaN]", "has NaN, which is no number of JSON"),
        ("[-Infinity]", "has -Infinity, which is no number of JSON"),
        ('{"a": {"b": 1, "b": 1, "c": 2}}', "a.b: is given twice in the same object; keep one of them"),
        ('[{"a": 1, "a": 2}]', "0.a: is given twice"),
        ('{"a": 1 "b"}', "is no JSON: expecting ',' delimiter at line 1, column 9"),
        ("\n\n{a}", "is no JSON: expecting property name enclosed in double quotes at line 3, column 2"),
        ('["\\ud800"]', "has half of a surrogate pair"),
        ('["\ud800"]', "has half of a surrogate pair"),
        ("  ", "is empty"),
    ],
)
def test_bombs_and_rubbish_are_refused(text, told):
    if told is None:
        assert read_json(text) == float("inf")
        return
    with pytest.raises(UnreadableDocument) as caught:
        read_json(text)
    assert told in str(caught.value)


def test_depth_is_counted_outside_of_texts():
    assert read_json(json.dumps(["[" * 100, '"{' * 100, "\\" * 99])) == ["[" * 100, '"{' * 100, "\\" * 99]
    deepest = "[" * DEPTH_MAX + "]" * DEPTH_MAX
    assert read_json(f"[{deepest[1:-1]}]")


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused(text):
    try:
        read_json(text)
    except UnreadableDocument as error:
        assert error.findings


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, "5"),
        (True, "true"),
        (None, "null"),
        (0.5, "0.5"),
        (float("inf"), "a number that is too large"),
        ("many", '"many"'),
        ("", '""'),
        ("x" * 40, "a text of 40 characters"),
        ("redis://:p@h", "a text of 12 characters"),
        ("a\nb", "a text of 3 characters"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object"),
    ],
)
def test_values_are_shown_in_short(value, told):
    assert shown(value) == told


def test_names_fit_into_a_line():
    assert dotted(("limits", "proc", 3, "a\nb")) == 'limits.proc.3."a\\nb"'
    assert len(dotted(("x" * 1_000,))) < 80
    assert dotted(("\x1b[31m\u202e",)) == '"\\u001b[31m\\u202e"'
