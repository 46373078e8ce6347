"""The numbers of a model as numbers of citations, wherever its text is cut."""

from __future__ import annotations

import pytest

from kdcube.docs.answering.markers import Markers

pytestmark = pytest.mark.anyio

CASES = [
    ("As here [2], and [2] and [1].", "As here [1], and [1] and [2]."),
    ("Both [1, 2]. Both[2,1].", "Both [1][2]. Both[2][1]."),
    ("None [9]. Half [9, 3].", "None. Half [1]."),
    ("`a[1]` and [1] `b", "`a[1]` and [1] `b"),
    ("```py\nx = `y`[2]\n``` [2]", "```py\nx = `y`[2]\n``` [1]"),
    ("A list [1 2], [x], [], [123], [1", "A list [1 2], [x], [], [123], [1"),
    ("end [ ", "end [ "),
]


@pytest.mark.parametrize(("text", "shown"), CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_markers(text, shown, size):
    numbers: dict[int, int] = {}

    async def number(given: int) -> int | None:
        return numbers.setdefault(given, len(numbers) + 1) if 1 <= given <= 3 else None

    markers = Markers(number)
    parts = [await markers.feed(text[start : start + size]) for start in range(0, len(text), size)]
    assert "".join(parts) + await markers.rest() == shown
