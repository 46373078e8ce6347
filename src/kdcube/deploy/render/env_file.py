"""The text of an environment file, as compose reads it: each value in quotes, so that nothing in it is expanded."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@+-]+")
_ESCAPED = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def render_env_file(heading: str, variables: Mapping[str, str]) -> str:
    """One variable a line, in their order. Raises ValueError for control characters, which no value may hold."""
    lines = [f"{name}={_quoted(value)}" for name, value in variables.items()]
    return "\n".join((f"# {heading}", *lines)) + "\n"


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", value):
        raise ValueError(f"a control character in {value!r}")
    if not re.search(r"['\n\r]", value):
        return f"'{value}'"
    return '"' + "".join(_ESCAPED.get(letter, letter) for letter in value) + '"'
