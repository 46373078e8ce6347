"""Lists in pages, newest first, of what has a number that grows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kdcube.postgres.database import Row
from kdcube.protocol.errors import InvalidInput

T = TypeVar("T")

_BEGINNING = 2**62


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """``next`` is the cursor of the following page, None at the end."""

    items: Sequence[T]
    next: str | None


class Pages(Generic[T]):
    """The pages of one list, of 1 to ``largest`` items. ``mark`` begins its cursors, so that others are refused."""

    def __init__(self, mark: str, largest: int, read: Callable[[Row], T], number: Callable[[T], int]) -> None:
        self._mark = mark
        self._cursor = re.compile(rf"{re.escape(mark)}\.(\d{{1,18}})")
        self._largest = largest
        self._read = read
        self._number = number

    def below(self, cursor: str | None, limit: int) -> int:
        """The number that all of the page stay below. Raises InvalidInput for ``cursor`` or ``limit``."""
        if not 1 <= limit <= self._largest:
            raise InvalidInput("limit", f"limit must be 1 to {self._largest}")
        if not cursor:
            return _BEGINNING
        match = self._cursor.fullmatch(cursor)
        if match is None:
            raise InvalidInput("cursor", "cursor must be one that a page gave as next")
        return int(match[1])

    def page(self, rows: Sequence[Row], limit: int) -> Page[T]:
        """Of ``rows``, newest first: one more than ``limit`` when there is a following page."""
        items = [self._read(row) for row in rows[:limit]]
        return Page(items, f"{self._mark}.{self._number(items[-1])}" if len(rows) > limit else None)
