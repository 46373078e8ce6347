"""What a process counts and measures, cheap enough for hot paths, in a form that adds up over processes.

A histogram has the same buckets everywhere, so those of several processes merge by adding, and a percentile of the sum
is that of all observations, to the width of a bucket (19 %). Averages of percentiles are never taken.
Everything is counted since the start of the process; what happened within a window is the difference to a snapshot.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

SCHEMA = 1
"""Of a report. Whoever reads one of another schema leaves it aside."""

FIRST_BOUND_S = 0.0005
BOUNDS: tuple[float, ...] = tuple(FIRST_BOUND_S * 2 ** (number / 4) for number in range(85))
"""Upper ends of the buckets in seconds, four to a doubling, up to 1,048 s; one more bucket holds what is longer."""

WINDOWS: Mapping[str, tuple[float, float]] = {"1m": (60, 5), "15m": (900, 60), "1h": (3600, 300)}
"""By name: how long a window is, and in which steps it slides (seconds)."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
Key: TypeAlias = tuple[str, Labels]


class Counter:
    """Counts up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, n: int = 1) -> None:
        self.value += n


class Histogram:
    """Observations by bucket."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum_s += seconds


@dataclass(frozen=True, slots=True)
class _Snapshot:
    at: float
    counters: Mapping[Key, int]
    buckets: Mapping[Key, Sequence[int]]


class Instruments:
    """The counters, gauges and histograms of one process, by name and labels. Lives on one event loop.

    Labels must be few: a route's pattern, never a path; a user type, never a user.
    """

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._counters: dict[Key, Counter] = {}
        self._histograms: dict[Key, Histogram] = {}
        self._gauges: dict[Key, Callable[[], float]] = {}
        self._started_ms = int(wall() * 1000)
        beginning = _Snapshot(monotonic(), {}, {})
        self._snapshots = {name: deque([beginning]) for name in WINDOWS}

    def counter(self, name: str, **labels: str) -> Counter:
        return self._counters.setdefault(_key(name, labels), Counter())

    def histogram(self, name: str, **labels: str) -> Histogram:
        return self._histograms.setdefault(_key(name, labels), Histogram())

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """``read`` is called for each report; it must be quick and not raise."""
        self._gauges[_key(name, labels)] = read

    def report(self) -> dict[str, Any]:
        """Everything, as plain data: totals since the start, and what happened within each window.

        To be called every few seconds: that is what makes the windows slide.
        """
        now = self._monotonic()
        bases = {name: self._base(name, now) for name in WINDOWS}
        return {
            "schema": SCHEMA,
            "at_ms": int(self._wall() * 1000),
            "started_ms": self._started_ms,
            "windows_s": {name: round(now - base.at, 1) for name, base in bases.items()},
            "counters": [
                {
                    "name": key[0],
                    "labels": dict(key[1]),
                    "total": counter.value,
                    "windows": {name: counter.value - base.counters.get(key, 0) for name, base in bases.items()},
                }
                for key, counter in self._counters.items()
            ],
            "gauges": [{"name": key[0], "labels": dict(key[1]), "value": read()} for key, read in self._gauges.items()],
            "histograms": [
                {
                    "name": key[0],
                    "labels": dict(key[1]),
                    "sum_s": round(histogram.sum_s, 6),
                    "buckets": _sparse(histogram.counts),
                    "windows": {
                        name: _sparse(_difference(histogram.counts, base.buckets.get(key)))
                        for name, base in bases.items()
                    },
                }
                for key, histogram in self._histograms.items()
            ],
        }

    def _base(self, name: str, now: float) -> _Snapshot:
        """The snapshot that a window begins with; takes another one when a step is over."""
        length_s, step_s = WINDOWS[name]
        kept = self._snapshots[name]
        if now - kept[-1].at >= step_s:
            counters = {key: counter.value for key, counter in self._counters.items()}
            buckets = {key: tuple(histogram.counts) for key, histogram in self._histograms.items()}
            kept.append(_Snapshot(now, counters, buckets))
        while len(kept) > 1 and now - kept[0].at > length_s:
            kept.popleft()
        return kept[0]


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(sorted(labels.items()))


def _difference(counts: Sequence[int], before: Sequence[int] | None) -> Sequence[int]:
    return counts if before is None else [now - then for now, then in zip(counts, before, strict=True)]


def _sparse(counts: Sequence[int]) -> dict[str, int]:
    return {str(index): count for index, count in enumerate(counts) if count}
