"""What models say, whichever speaks: pieces of text, tokens, and an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """``user`` or ``assistant``."""
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counted so far; None where this event does not say."""

    input: int | None = None
    output: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete, unless it was ``cut`` at the limit of its length."""

    cut: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """The model gives up in the middle."""

    reason: str
    retryable: bool = False


Said = Text | Tokens | End | Broken


class Dialect(Protocol):
    """How one provider is asked, and how it answers."""

    path: str

    def headers(self, key: str | None) -> dict[str, str]: ...

    def body(self, model: str, system: str, messages: Sequence[Message]) -> dict[str, Any]: ...

    def read(self, event: Mapping[str, Any]) -> Iterator[Said]:
        """What one event of the stream says; whatever is not known says nothing."""
        ...


MAX_ANSWER_TOKENS = 2_000


def dig(value: Any, *path: str | int) -> Any:
    """What stands at a path of JSON; None where there is nothing."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
