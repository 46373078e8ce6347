"""JSON that an operator has written: read within bounds, with the path of whatever is wrong with it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

DOCUMENT_MAX_BYTES = 1024 * 1024
DEPTH_MAX = 32
MEMBERS_MAX = 2_000
"""Of one object."""
CONTAINERS_MAX = 20_000
"""Objects and lists in one document."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)  # an unclosed string too: else it is quadratic
_PLAIN_NAME = re.compile(r"[\w.@$:+-]{1,64}")
_EXACT_MAX = 2**53
_TWICE_SHOWN = 8

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or probably wrong, in a document. Its message holds no value of an unknown field."""

    path: str
    """As in ``backpressure.proc.hard_limit_threshold``; empty for the document as a whole."""
    message: str
    allowed: str | None = None
    """What may be given, in words."""
    closest: str | None = None
    """The known name that is most like an unknown one."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class UnreadableDocument(Exception):
    """The text is no JSON document within the bounds."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings


def read_json(text: str, *, max_bytes: int = DOCUMENT_MAX_BYTES) -> Any:
    """``text`` as plain data. A whole number may be written as ``5.0``, as in JSON Schema.

    Raises UnreadableDocument: too large or too deep (found before it is parsed), no JSON, a key twice, NaN.
    """
    _check_bounds(text, max_bytes)
    try:
        document = json.loads(
            text, object_pairs_hook=_Pairs.of, parse_constant=_refuse_constant, parse_float=_number, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UnreadableDocument(Finding("", f"is no JSON: {_reason(error.msg)} at {where}")) from None
    except _Refused as error:
        raise UnreadableDocument(Finding("", str(error))) from None
    if _has_surrogates(document):
        raise UnreadableDocument(Finding("", "has half of a surrogate pair, which is no character"))
    twice = [Finding(dotted(path), "is given twice in the same object; keep one of them") for path in _twice(document)]
    if twice:
        raise UnreadableDocument(*twice)
    return document


def dotted(path: Path) -> str:
    """``limits.proc.max_queue_size``, ``guarded_rest_patterns.1``; names that would confuse a reader are quoted."""
    return ".".join(named(part) if isinstance(part, str) else str(part) for part in path)


def named(name: str) -> str:
    """An unknown name, fit for one line of a log."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    return json.dumps(name if len(name) <= 64 else name[:64] + "…").replace("\\u2026", "…")


def shown(value: Any) -> str:
    """What was given, in one short line. A text that might be a credential is only measured."""
    if isinstance(value, str):
        harmless = len(value) <= 32 and "://" not in value and "@" not in value and value.isprintable()
        return json.dumps(value) if harmless else measured(value)
    if isinstance(value, list):
        return f"a list of {len(cast('Sequence[Any]', value))}"
    if isinstance(value, dict):
        return "an object"
    return json.dumps(value) if value not in (math.inf, -math.inf) else "a number that is too large"


def measured(text: str) -> str:
    """What a text is told as that may be a credential."""
    return "an empty text" if not text else f"a text of {len(text)} character{'s' * (len(text) > 1)}"


def _check_bounds(text: str, max_bytes: int) -> None:
    if len(text) > max_bytes or (len(text) > max_bytes // 4 and len(text.encode(errors="replace")) > max_bytes):
        raise UnreadableDocument(Finding("", f"is larger than {max_bytes} bytes"))
    if not text.strip():
        raise UnreadableDocument(Finding("", "is empty"))
    depth = containers = 0
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case "[" | "{":
                depth += 1
                containers += 1
                if depth > DEPTH_MAX:
                    raise UnreadableDocument(Finding("", f"is nested deeper than {DEPTH_MAX} levels"))
                if containers > CONTAINERS_MAX:
                    raise UnreadableDocument(Finding("", f"has more than {CONTAINERS_MAX} objects and lists"))
            case "]" | "}":
                depth -= 1
            case _:
                pass


def _has_surrogates(document: Any) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


class _Pairs(dict[str, Any]):
    """An object that remembers which of its keys it was given twice."""

    twice: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > MEMBERS_MAX:
            raise _Refused(f"has an object with more than {MEMBERS_MAX} members")
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        found, times = cls(plain), Counter(name for name, _ in pairs)
        found.twice = tuple(name for name, count in times.items() if count > 1)[:_TWICE_SHOWN]
        return found


def _twice(value: Any, path: Path = ()) -> list[Path]:
    found: list[Path] = []
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if isinstance(value, _Pairs):
            found.extend((*path, name) for name in value.twice)
        for name, field in fields.items():
            found.extend(_twice(field, (*path, name)))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            found.extend(_twice(item, (*path, index)))
    return found


class _Refused(Exception):
    pass


def _refuse_constant(name: str) -> Any:
    raise _Refused(f"has {name}, which is no number of JSON")


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if abs(number) < _EXACT_MAX and number.is_integer() else number


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= 20 else float(text)


def _reason(message: str) -> str:
    """The parser's own words, which quote nothing of the text."""
    return message[:1].lower() + message[1:].removesuffix(" at")
