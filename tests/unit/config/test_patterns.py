from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kdcube.config.patterns import PATH_MAX_BYTES, PATTERN_MAX_CHARS, PATTERNS_MAX, SUFFIXES_MAX, Patterns

ADAPTER = TypeAdapter(Patterns)
EXPLODING = [r"^(a+)+$", r"(a|a)*b", r"(.*)*=(.*)*$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(a|aa)+$", r"^(a?){200}a{200}$"]


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("/integrations/bundles/t/p/b/operations/x", True),
        ("/chatbot/api/integrations/x", True),
        ("/integrations", False),
        ("/integrationsx/", False),
        ("integrations/x", False),
        ("/a/b/c/d/e/integrations/x", True),
        ("/integrations/line\nfeed", True),
        ("/integrations/\ud800", True),
        ("", False),
    ],
)
def test_the_path_and_its_suffixes_are_searched(path, matches):
    assert Patterns.compiled(["^/integrations/.*"]).matches(path) is matches


def test_the_end_is_the_end_of_the_path():
    webhook = Patterns.compiled(["^.*/webhooks/stripe$"])
    assert webhook.matches("/api/economics/webhooks/stripe")
    assert not webhook.matches("/api/economics/webhooks/stripe/refunds")
    assert not webhook.matches("/api/economics/webhooks/stripe\n")


def test_no_patterns_match_nothing():
    assert not Patterns() and not Patterns().matches("/x")
    assert Patterns.compiled(["x"])


def test_two_lists_of_the_same_texts_are_equal():
    assert Patterns.compiled(["a", "b"]) == ADAPTER.validate_python(["a", "b"]) != Patterns.compiled(["b", "a"])
    assert ADAPTER.dump_json(Patterns.compiled(["a"])) == b'["a"]'
    assert ADAPTER.validate_python(Patterns.compiled(["a"])) == Patterns.compiled(["a"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("(?=a)", "has look-ahead (?=…), which RE2 does not know: patterns run in linear time"),
        ("(?!a)", "has look-ahead (?!…), which"),
        ("(?<=a)b", "has look-behind (?<…), which"),
        ("(?<!a)b", "has look-behind (?<…), which"),
        (r"(a)\1", r"has the back reference \1, which"),
        ("(?P<n>a)(?P=n)", "has the back reference (?P=…), which"),
        ("(?>a)", "has the atomic group (?>…), which"),
        ("a++", "has the possessive ++, which"),
        ("(", "is no regular expression of RE2: missing ): ("),
        ("a{5000}", "is no regular expression of RE2: invalid repetition size"),
        (r"((a{1,100}){1,9}\pL{1,900}){1,1}" * 9, "is no regular expression of RE2: "),
        ("", "is empty"),
        ("\ud800", "has half of a surrogate pair"),
        ("a" * (PATTERN_MAX_CHARS + 1), f"has {PATTERN_MAX_CHARS + 1} characters; give at most {PATTERN_MAX_CHARS}"),
    ],
)
def test_what_is_no_pattern_is_told_with_the_reason(text, told, capfd):
    with pytest.raises(ValueError, match=" ") as caught:
        Patterns.compiled([text])
    assert str(caught.value).startswith(told)
    with pytest.raises(ValidationError) as invalid:
        ADAPTER.validate_python(["fine", text])
    assert [detail["loc"] for detail in invalid.value.errors()] == [(1,)]
    assert capfd.readouterr() == ("", "")


def test_the_number_of_patterns_is_bounded_before_any_is_compiled():
    with pytest.raises(ValidationError, match=f"has more than {PATTERNS_MAX} patterns"):
        ADAPTER.validate_python(["("] * 10_000)


@pytest.mark.parametrize("pattern", EXPLODING)
def test_exploding_patterns_end(pattern):
    """With a matcher that tries one way after the other each of these takes longer than the universe is old."""
    patterns = Patterns.compiled([pattern] * PATTERNS_MAX)
    patterns.matches("/" + "a" * 2_000 + "!")
    patterns.matches("/a" * 1_000 + "!")


def test_long_paths_are_looked_at_in_part():
    tail = Patterns.compiled(["^/end$"])
    assert tail.matches("/x" * SUFFIXES_MAX + "/end")
    assert not tail.matches("/x" * (SUFFIXES_MAX + 1) + "/end")
    assert not Patterns.compiled(["end"]).matches("/" + "x" * PATH_MAX_BYTES + "end")


@settings(deadline=None)
@given(st.text(max_size=50), st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=4))
def test_any_text_is_a_list_of_patterns_or_told_to_be_none(path, texts):
    try:
        patterns = Patterns.compiled(texts)
    except ValueError as error:
        assert str(error)
    else:
        patterns.matches(path)
