"""Percentiles of histograms that were merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from kdcube.telemetry.instruments import BOUNDS


def merged(reports: Iterable[Mapping[str, int]]) -> Counter[int]:
    """The sum of sparse buckets, as ``Instruments.report`` gives them."""
    total: Counter[int] = Counter()
    for buckets in reports:
        total.update({int(index): count for index, count in buckets.items()})
    return total


def percentile_s(buckets: Mapping[int, int], share: float) -> float | None:
    """The value that ``share`` of the observations do not exceed, within its bucket by interpolation; None of none."""
    wanted = sum(buckets.values()) * share
    if not wanted:
        return None
    seen = 0
    for index in sorted(buckets):
        count = buckets[index]
        if seen + count >= wanted:
            if index >= len(BOUNDS):
                return BOUNDS[-1]
            below = BOUNDS[index - 1] if index else 0.0
            return below + (BOUNDS[index] - below) * (wanted - seen) / count
        seen += count
    return BOUNDS[-1]
