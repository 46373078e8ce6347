"""Regular expressions on paths, given in the configuration. They run in linear time: none can hang a service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, Self, cast

import re2
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

PATTERN_MAX_CHARS = 512
PATTERNS_MAX = 64
"""Of one list."""
PATH_MAX_BYTES = 4_096
SUFFIXES_MAX = 16
"""How many leading segments of a path may be left out."""

_PROGRAM_MAX_BYTES = 256 * 1024
_NOT_LINEAR = {
    "invalid perl operator: (?=": "look-ahead (?=…)",
    "invalid perl operator: (?!": "look-ahead (?!…)",
    "invalid perl operator: (?<": "look-behind (?<…)",
    "invalid perl operator: (?>": "the atomic group (?>…)",
    "invalid perl operator: (?P": "the back reference (?P=…)",
    "bad repetition operator: ++": "the possessive ++",
    "bad repetition operator: *+": "the possessive *+",
    "bad repetition operator: ?+": "the possessive ?+",
    **{f"invalid escape sequence: \\{digit}": f"the back reference \\{digit}" for digit in range(1, 10)},
}
"""What RE2 leaves out because no matcher does it in linear time."""


_engine: Any = re2
"""It has no types."""


class _Compiled(Protocol):
    def search(self, text: bytes) -> object | None: ...


@dataclass(frozen=True)
class Patterns:
    """A list of regular expressions in the syntax of RE2. Made by ``compiled``."""

    texts: tuple[str, ...] = ()
    _compiled: tuple[_Compiled, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def compiled(cls, texts: Iterable[str]) -> Self:
        """Raises ValueError, which says what is wrong with a pattern."""
        given = tuple(texts)
        return cls(given, tuple(_compile(text) for text in given))

    def matches(self, path: str) -> bool:
        """Whether a pattern is found in ``path`` or in what is left of it behind one of its first segments.

        So ``^/integrations/.*`` matches ``/integrations/x`` as well as ``/chatbot/api/integrations/x``. Of a path
        that is longer than 4,096 bytes the beginning is looked at.
        """
        if not self._compiled:
            return False
        tried = _suffixes(path.encode(errors="replace")[:PATH_MAX_BYTES])
        return any(pattern.search(text) is not None for text in tried for pattern in self._compiled)

    def __bool__(self) -> bool:
        return bool(self.texts)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.no_info_after_validator_function(_checked, core_schema.str_schema(strict=True))
        texts = core_schema.no_info_before_validator_function(_listed, core_schema.list_schema(text))
        return core_schema.no_info_after_validator_function(
            cls.compiled, texts, serialization=core_schema.plain_serializer_function_ser_schema(_texts)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {"type": "string", "minLength": 1, "maxLength": PATTERN_MAX_CHARS, "format": "re2"}
        return {"type": "array", "items": text, "maxItems": PATTERNS_MAX}


def _texts(patterns: Patterns) -> list[str]:
    return list(patterns.texts)


def _listed(given: Any) -> object:
    """Bounded before anything is compiled."""
    if isinstance(given, Patterns):
        return list(given.texts)
    if isinstance(given, list) and len(cast("list[Any]", given)) > PATTERNS_MAX:
        raise PydanticCustomError("patterns", "has more than {most} patterns", {"most": PATTERNS_MAX})
    return cast("object", given)


def _suffixes(path: bytes) -> Sequence[bytes]:
    found = [path]
    at = path.find(b"/", 1)
    while at > 0 and len(found) <= SUFFIXES_MAX:
        found.append(path[at:])
        at = path.find(b"/", at + 1)
    return found


def _checked(text: str) -> str:
    try:
        _compile(text)
    except ValueError as error:
        raise PydanticCustomError("pattern", "{reason}", {"reason": str(error)}) from None
    return text


@lru_cache(maxsize=4 * PATTERNS_MAX)
def _compile(text: str) -> _Compiled:
    if not text:
        raise ValueError("is empty, which matches every path; remove it")
    if len(text) > PATTERN_MAX_CHARS:
        raise ValueError(f"has {len(text)} characters; give at most {PATTERN_MAX_CHARS}")
    options: Any = _engine.Options()
    options.log_errors = False
    options.never_capture = True
    options.dot_nl = True  # so that an encoded line feed in a path hides nothing from a pattern
    options.max_mem = _PROGRAM_MAX_BYTES
    try:
        return _engine.compile(text, options)
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair, which is no character") from None
    except _engine.error as error:
        reason = error.args[0]
        raise ValueError(_explained(reason.decode() if isinstance(reason, bytes) else str(reason))) from None


def _explained(reason: str) -> str:
    for beginning, what in _NOT_LINEAR.items():
        if reason.startswith(beginning):
            return (
                f"has {what}, which RE2 does not know: patterns run in linear time (github.com/google/re2/wiki/Syntax)"
            )
    return f"is no regular expression of RE2: {reason} (github.com/google/re2/wiki/Syntax)"
