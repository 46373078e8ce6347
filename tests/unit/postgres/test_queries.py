"""Named queries: what a file must look like, and that the shipped ones do."""

from __future__ import annotations

import pytest

from kdcube.postgres.queries import load_queries, parse_queries


@pytest.mark.parametrize("file", ["turns", "conversations", "epochs"])
def test_the_shipped_files_load(file: str) -> None:
    queries = load_queries(file)
    assert queries
    for name, sql in queries.items():
        assert sql.startswith(f"-- {name}\n")
        assert "{{" not in sql
        assert ";" not in sql


def test_a_query_has_its_name_its_text_and_its_fragments() -> None:
    text = "-- A file.\n\n-- name: one\n-- Gives one.\nselect {{n}}\n\n-- name: two\n-- Two.\n-- twice\nselect 2\n"
    assert parse_queries(text, {"n": "1"}) == {"one": "select 1", "two": "-- twice\nselect 2"}


@pytest.mark.parametrize(
    "text", ["-- name: one\nselect 1\n", "-- name: one\n-- One.\nselect 1\n-- name: one\n-- One.\nselect 1\n"]
)
def test_a_query_needs_a_description_and_a_name_of_its_own(text: str) -> None:
    with pytest.raises(ValueError, match="one"):
        parse_queries(text)


def test_an_unknown_fragment_is_an_error() -> None:
    with pytest.raises(KeyError):
        parse_queries("-- name: one\n-- One.\nselect {{n}}\n")
