"""Counters and histograms of one or many processes at one moment, as values that are added and subtracted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from kdcube.metrics.picture import Buckets
from kdcube.telemetry.instruments import Key

_NO_BUCKETS = Buckets({})


@dataclass(frozen=True, slots=True)
class Figures:
    """Never changed: whoever keeps one keeps a moment."""

    counters: Mapping[Key, float] = field(default_factory=dict[Key, float])
    histograms: Mapping[Key, Buckets] = field(default_factory=dict[Key, Buckets])

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """The totals of a report (``telemetry.instruments``)."""
        return cls(
            {_key(entry): entry["total"] for entry in report["counters"]},
            {_key(entry): Buckets(_indexed(entry["buckets"]), entry["sum_s"]) for entry in report["histograms"]},
        )

    @classmethod
    def of_window(cls, report: Mapping[str, Any], window: str) -> Self:
        """What the process of a report counted within a window."""
        return cls(
            {_key(entry): entry["windows"][window] for entry in report["counters"]},
            {_key(entry): Buckets(_indexed(entry["windows"][window])) for entry in report["histograms"]},
        )

    def plus(self, other: Figures) -> Figures:
        counters = dict(self.counters)
        for key, value in other.counters.items():
            if value:
                counters[key] = counters.get(key, 0) + value
            else:
                counters.setdefault(key, 0)
        histograms = dict(self.histograms)
        for key, more in other.histograms.items():
            before = histograms.get(key, _NO_BUCKETS)
            if more.counts or key not in histograms:
                histograms[key] = Buckets(_added(before.counts, more.counts), before.sum_s + more.sum_s)
        return Figures(counters, histograms)

    def since(self, earlier: Figures) -> Figures:
        """What came to ``earlier`` to make this. Nothing is ever less than before: what looks so counts as nothing."""
        return Figures(
            {key: max(0, value - earlier.counters.get(key, 0)) for key, value in self.counters.items()},
            {
                key: Buckets(
                    _taken(buckets.counts, (before := earlier.histograms.get(key, _NO_BUCKETS)).counts),
                    max(0.0, buckets.sum_s - before.sum_s),
                )
                for key, buckets in self.histograms.items()
            },
        )

    def share(self, share: float) -> Figures:
        """``share`` (0 to 1) of everything, rounded down where things are counted."""
        return Figures(
            {
                key: value * share if isinstance(value, float) else int(value * share)
                for key, value in self.counters.items()
            },
            {
                key: Buckets(
                    {index: int(count * share) for index, count in buckets.counts.items()}, buckets.sum_s * share
                )
                for key, buckets in self.histograms.items()
            },
        )


def _key(entry: Mapping[str, Any]) -> Key:
    return entry["name"], tuple(sorted(entry["labels"].items()))


def _indexed(sparse: Mapping[str, int]) -> dict[int, int]:
    return {int(index): count for index, count in sparse.items()}


def _added(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    added = dict(one)
    for index, count in other.items():
        added[index] = added.get(index, 0) + count
    return added


def _taken(whole: Mapping[int, int], part: Mapping[int, int]) -> dict[int, int]:
    return {index: left for index, count in whole.items() if (left := count - part.get(index, 0)) > 0}
