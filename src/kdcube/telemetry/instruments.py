"""What a process counts and measures, cheap enough for hot paths, in a form that adds up over processes.

A histogram has the same buckets everywhere, so those of several processes merge by adding, and a percentile of the sum
is that of all observations, to the width of a bucket (19 %). Averages of percentiles are never taken.
Everything is counted since the start of the process; what happened within a window is the difference to a snapshot.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from kdcube.telemetry.catalogue import CATALOGUE, Kind, Metric

SCHEMA = 1
"""Of a report. Whoever reads one of another schema leaves it aside."""

FIRST_BOUND_S = 0.0005
BOUNDS: tuple[float, ...] = tuple(FIRST_BOUND_S * 2 ** (number / 4) for number in range(85))
"""Upper ends of the buckets in seconds, four to a doubling, up to 1,048 s; one more bucket holds what is longer."""

WINDOWS: Mapping[str, tuple[float, float]] = {"1m": (60, 5), "15m": (900, 60), "1h": (3600, 300)}
"""By name: how long a window is, and in which steps it slides (seconds)."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
Key: TypeAlias = tuple[str, Labels]
Labelled: TypeAlias = Iterable[tuple[Mapping[str, str], float]]
"""Values of one gauge by their labels."""


class Counter:
    """Counts up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, n: int = 1) -> None:
        self.value += n


class _Counted:
    """A counter that somebody else keeps."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    @property
    def value(self) -> float:
        return self._read()


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
    counters: Mapping[Key, float]
    buckets: Mapping[Key, Sequence[int]]


class Instruments:
    """The counters, gauges and histograms of one process, by name and labels. Lives on one event loop.

    All are of ``metrics``, with exactly the labels that stand there: else ValueError. Keep what ``counter`` and
    ``histogram`` give where it is used often.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        metrics: Mapping[str, Metric] = CATALOGUE,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._metrics = metrics
        self._counters: dict[Key, Counter] = {}
        self._counted: dict[Key, _Counted] = {}
        self._histograms: dict[Key, Histogram] = {}
        self._asked_counters: dict[tuple[object, ...], Counter] = {}
        """As they are asked for, with the labels in any order: what is asked for again is found at once."""
        self._asked_histograms: dict[tuple[object, ...], Histogram] = {}
        self._gauges: dict[Key, Callable[[], float | None]] = {}
        self._labelled_gauges: dict[str, Callable[[], Labelled]] = {}
        self._started_ms = int(wall() * 1000)
        beginning = _Snapshot(monotonic(), {}, {})
        self._snapshots = {name: deque([beginning]) for name in WINDOWS}

    def counter(self, name: str, **labels: str) -> Counter:
        asked = (name, *labels.items())
        counter = self._asked_counters.get(asked)
        if counter is None:
            self._check(name, Kind.COUNTER, labels)
            counter = self._counters.setdefault(_key(name, labels), Counter())
            self._asked_counters[asked] = counter
        return counter

    def counted(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """A counter that is kept elsewhere, and never goes back. ``read`` is as that of ``gauge``."""
        self._check(name, Kind.COUNTER, labels)
        self._counted[_key(name, labels)] = _Counted(read)

    def histogram(self, name: str, **labels: str) -> Histogram:
        asked = (name, *labels.items())
        histogram = self._asked_histograms.get(asked)
        if histogram is None:
            self._check(name, Kind.HISTOGRAM, labels)
            histogram = self._histograms.setdefault(_key(name, labels), Histogram())
            self._asked_histograms[asked] = histogram
        return histogram

    def gauge(self, name: str, read: Callable[[], float | None], **labels: str) -> None:
        """``read`` is called for each report; it must be quick and not raise. None: nobody knows, or it has no meaning
        now; it is left out then.
        """
        self._check(name, Kind.GAUGE, labels)
        self._gauges[_key(name, labels)] = read

    def gauges(self, name: str, read: Callable[[], Labelled]) -> None:
        """A gauge whose labels come and go."""
        if self._metric(name, Kind.GAUGE).labels == ():
            raise ValueError(f"{name} has no labels")
        self._labelled_gauges[name] = read

    def totals(self) -> dict[str, Any]:
        """Everything since the start, as plain data. Changes nothing."""
        return {
            "schema": SCHEMA,
            "at_ms": int(self._wall() * 1000),
            "started_ms": self._started_ms,
            "counters": [_counter_entry(key, counter.value) for key, counter in self._all_counters()],
            "gauges": self._values(),
            "histograms": [_histogram_entry(key, histogram) for key, histogram in self._histograms.items()],
        }

    def report(self) -> dict[str, Any]:
        """The totals, and for counters and histograms what happened within each window.

        To be called every few seconds: that is what makes the windows slide.
        """
        now = self._monotonic()
        bases = {name: self._base(name, now) for name in WINDOWS}
        counters = [
            _counter_entry(key, total := counter.value)
            | {"windows": {name: total - base.counters.get(key, 0) for name, base in bases.items()}}
            for key, counter in self._all_counters()
        ]
        histograms = [
            _histogram_entry(key, histogram)
            | {
                "windows": {
                    name: _sparse(_difference(histogram.counts, base.buckets.get(key))) for name, base in bases.items()
                }
            }
            for key, histogram in self._histograms.items()
        ]
        return {
            **self.totals(),
            "windows_s": {name: round(now - base.at, 1) for name, base in bases.items()},
            "counters": counters,
            "histograms": histograms,
        }

    def _values(self) -> list[dict[str, Any]]:
        single = [{"name": key[0], "labels": dict(key[1]), "value": read()} for key, read in self._gauges.items()]
        several = [
            {"name": name, "labels": dict(labels), "value": value}
            for name, read in self._labelled_gauges.items()
            for labels, value in read()
        ]
        return [entry for entry in (*single, *several) if entry["value"] is not None]

    def _all_counters(self) -> Iterable[tuple[Key, Counter | _Counted]]:
        yield from self._counters.items()
        yield from self._counted.items()

    def _base(self, name: str, now: float) -> _Snapshot:
        """The snapshot that a window begins with; takes another one when a step is over."""
        length_s, step_s = WINDOWS[name]
        kept = self._snapshots[name]
        if now - kept[-1].at >= step_s:
            counters = {key: counter.value for key, counter in self._all_counters()}
            buckets = {key: tuple(histogram.counts) for key, histogram in self._histograms.items()}
            kept.append(_Snapshot(now, counters, buckets))
        while len(kept) > 1 and now - kept[0].at > length_s:
            kept.popleft()
        return kept[0]

    def _check(self, name: str, kind: Kind, labels: Mapping[str, str]) -> None:
        wanted = self._metric(name, kind).labels
        if set(labels) != set(wanted):
            raise ValueError(f"{name} has the labels {wanted}, not {tuple(labels)}")

    def _metric(self, name: str, kind: Kind) -> Metric:
        metric = self._metrics.get(name)
        if metric is None or metric.kind is not kind:
            raise ValueError(f"the catalogue has no {kind} {name}: add it in telemetry/catalogue.py")
        return metric


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(sorted(labels.items()))


def _counter_entry(key: Key, total: float) -> dict[str, Any]:
    return {"name": key[0], "labels": dict(key[1]), "total": total}


def _histogram_entry(key: Key, histogram: Histogram) -> dict[str, Any]:
    return {
        "name": key[0],
        "labels": dict(key[1]),
        "sum_s": round(histogram.sum_s, 6),
        "buckets": _sparse(histogram.counts),
    }


def _difference(counts: Sequence[int], before: Sequence[int] | None) -> Sequence[int]:
    return counts if before is None else [now - then for now, then in zip(counts, before, strict=True)]


def _sparse(counts: Sequence[int]) -> dict[str, int]:
    return {str(index): count for index, count in enumerate(counts) if count}
