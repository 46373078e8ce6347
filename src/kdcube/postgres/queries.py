"""The named queries of ``queries/*.sql``.

A query begins with ``-- name: its_name`` and a line of comment that says what it does. ``{{this}}`` inside it stands
for the query of that name in ``fragments.sql``. A query is sent with its name, which shows in pg_stat_activity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_REFERENCE = re.compile(r"\{\{(\w+)\}\}")


@cache
def load_queries(file: str) -> Mapping[str, str]:
    """Name to SQL of ``queries/<file>.sql``, read once."""
    fragments = parse_queries(_text("fragments"))
    bodies = parse_queries(_text(file), fragments)
    return MappingProxyType({name: f"-- {name}\n{body}" for name, body in bodies.items()})


def parse_queries(text: str, fragments: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name to SQL without its description.

    Raises ValueError for a query without a description or a name used twice, KeyError for an unknown fragment.
    """
    _, *parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[0::2], parts[1::2], strict=True):
        description, _, sql = body.partition("\n")
        if not description.startswith("-- ") or name in queries:
            raise ValueError(f"{name}: a query needs a line that describes it and a name of its own")
        queries[name] = _REFERENCE.sub(lambda match: (fragments or {})[match[1]], sql.strip())
    return queries


def _text(file: str) -> str:
    return (resources.files("kdcube.postgres") / "queries" / f"{file}.sql").read_text("utf-8")
