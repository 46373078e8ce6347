"""The text of an nginx configuration: every argument is quoted in one place, so that none can end its directive."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_.,:/$@~=^*+?|\[\]()!<>&-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def directive(name: str, *arguments: str | int) -> str:
    """``name argument ...;``"""
    return " ".join((quoted(name), *(quoted(str(argument)) for argument in arguments))) + ";"


def block(name: str, *arguments: str, body: Iterable[str]) -> str:
    """``name argument ... { body }``"""
    head = " ".join((name, *(quoted(argument) for argument in arguments)))
    lines = [f"    {line}" if line else "" for part in body for line in part.split("\n")]
    return "\n".join((head + " {", *lines, "}"))


def quoted(argument: str) -> str:
    """One argument, in quotes where it needs them. Raises ValueError for control characters: no fact may hold any."""
    if _CONTROL.search(argument):
        raise ValueError(f"a control character in {argument!r}")
    if _PLAIN.fullmatch(argument):
        return argument
    return '"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"'
