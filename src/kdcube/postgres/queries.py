"""The named queries of ``queries/*.sql``.

A query begins with ``-- name: its_name`` and a line of comment that says what it does; ``{{other_name}}`` inside it
stands for the text of another query of the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)\n(?=-- \S)", re.MULTILINE)
_REFERENCE = re.compile(r"\{\{(\w+)\}\}")


@cache
def load_queries(file: str) -> Mapping[str, str]:
    """Name to SQL of ``queries/<file>.sql``, read once."""
    return MappingProxyType(parse_queries((resources.files("kdcube.postgres") / "queries" / f"{file}.sql").read_text()))


def parse_queries(text: str) -> dict[str, str]:
    """Raises ValueError for a query without a description or with a name used twice, KeyError for a wrong reference."""
    preamble, *parts = _NAME.split(text)
    if preamble.count("-- name:") or any("-- name:" in part for part in parts):
        raise ValueError("every query needs a name and a line that describes it")
    names = parts[0::2]
    if len(set(names)) != len(names):
        raise ValueError("two queries have the same name")
    bodies = {name: body.strip() for name, body in zip(names, parts[1::2], strict=True)}
    return {name: _REFERENCE.sub(lambda match: bodies[match[1]], body) for name, body in bodies.items()}
