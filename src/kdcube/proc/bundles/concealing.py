"""Keeps the secrets that a bundle was given out of what proc logs of it: its output, and its tracebacks."""

from __future__ import annotations

from collections.abc import Mapping

from kdcube.telemetry.redaction import REDACTED

LENGTH_MIN = 6
"""A shorter value is part of too many words."""
_LINE_MIN = 16
_VALUES_MAX = 256


class Concealing:
    """Of one host. What is rotated stays concealed: code may have kept the old value."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._longest_first: list[str] = []

    def add(self, secrets: Mapping[str, str]) -> None:
        """By name, as a turn or call is given them."""
        known = self._known
        new = [value for value in secrets.values() if value not in known and len(value) >= LENGTH_MIN]
        if not new:
            return
        known.update(dict.fromkeys(new))
        while len(known) > _VALUES_MAX:
            del known[next(iter(known))]
        lines = {line for value in known for line in value.splitlines() if len(line) >= _LINE_MIN}
        self._longest_first = sorted({*known, *lines}, key=len, reverse=True)

    def without(self, text: str) -> str:
        """``text`` without any of them. Of a value of several lines (a key in PEM) each long line counts."""
        for value in self._longest_first:
            if value in text:
                text = text.replace(value, REDACTED)
        return text
