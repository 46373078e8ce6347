"""Keeps credentials out of what is logged: by the name of a field, and by their looks inside any text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

REDACTED = "[redacted]"

_NAMES = re.compile(
    r"(^|[_-])(token|password|passwd|secrets?|authorization|cookies?|api_?key|private_key|credentials?)$", re.IGNORECASE
)
_LOOKS = (
    (re.compile(r"(?<=://)[^\s/?#]+@"), f"{REDACTED}@"),  # redis://:password@host
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REDACTED),  # a JWT
    (re.compile(r"\b(\w*(?:token|password|secret|api_?key))(=|%3D)[^\s&;,'\"]+", re.IGNORECASE), rf"\1\2{REDACTED}"),
)
_TEXT_MAX_CHARS = 16_384
_DEPTH_MAX = 6


def redact_text(text: str) -> str:
    """``text`` without URL credentials, bearer tokens, JWTs and ``…token=…``, and not longer than 16,384 characters."""
    text = text[:_TEXT_MAX_CHARS]
    for looks, replacement in _LOOKS:
        text = looks.sub(replacement, text)
    return text


def redact(value: Any, depth: int = 0) -> Any:
    """``value`` as plain data fit for a log. Numbers pass under any name: ``max_token=5`` is no credential."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth < _DEPTH_MAX:
        if isinstance(value, Mapping):
            fields = cast("Mapping[Any, Any]", value)
            return {str(name): redact_field(str(name), field, depth + 1) for name, field in fields.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [redact(item, depth + 1) for item in cast("Iterable[Any]", value)]
    return redact_text(repr(cast("object", value)))


def redact_field(name: str, value: Any, depth: int = 0) -> Any:
    """The value of a field called ``name``."""
    hidden = _NAMES.search(name) is not None and not (value is None or isinstance(value, bool | int | float))
    return REDACTED if hidden else redact(value, depth)


def looks_secret(value: Any, path: str = "", depth: int = 0) -> str | None:
    """Where in plain data something stands that ``redact`` would hide, as ``models.api_key``; None: nowhere."""
    if depth >= _DEPTH_MAX:
        return None
    fields: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        fields = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, list | tuple):
        fields = enumerate(cast("Iterable[Any]", value))
    elif isinstance(value, str) and redact_text(value) != value[:_TEXT_MAX_CHARS]:
        return path
    for name, field in fields:
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(field, str) and field and _NAMES.search(str(name)):
            return inner
        if (found := looks_secret(field, inner, depth + 1)) is not None:
            return found
    return None
