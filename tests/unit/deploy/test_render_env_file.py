"""Values in environment files of compose."""

from __future__ import annotations

import pytest

from kdcube.deploy.render.env_file import render_env_file


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ('{"a":"$b"}', '\'{"a":"$b"}\''),
        ("a b # c", "'a b # c'"),
        ("it's $us", '"it\'s \\$us"'),
        ("two\nlines", '"two\\nlines"'),
        ("back\\slash", "'back\\slash'"),
    ],
)
def test_nothing_in_a_value_has_a_meaning(value, written):
    assert render_env_file("x", {"NAME": value}) == f"# x\nNAME={written}\n"


def test_control_characters_are_refused():
    with pytest.raises(ValueError, match="control"):
        render_env_file("x", {"NAME": "a\x00b"})
