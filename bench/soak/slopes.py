"""How fast something grows, whatever single samples say."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations

Point = tuple[float, float]
"""When (s), and how much."""


def theil_sen(points: Sequence[Point], *, apart_s: float) -> float | None:
    """The median slope (1/s) of all pairs of points that are ``apart_s`` or more from each other; None without a pair.

    More than a quarter of the points may be anything, such as the steps of a load that comes in bursts, without moving
    it far.
    """
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in combinations(points, 2)
        if later[0] - earlier[0] >= apart_s
    ]
    return statistics.median(slopes) if slopes else None
