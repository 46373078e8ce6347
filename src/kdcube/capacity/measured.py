"""Service times as the running system has measured them: histograms in its reports."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kdcube.capacity.service_times import ServiceTimes
from kdcube.config.documents import UnreadableDocument, read_json
from kdcube.protocol.errors import InvalidInput
from kdcube.telemetry.instruments import BOUNDS

RUNS = "turn_run_seconds"
"""From the START of a turn to its end, by bundle and state."""
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Measured:
    """Histograms of one name, added up."""

    buckets: Counter[int] = field(default_factory=Counter[int])
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        return self.buckets.total()

    def add(self, histogram: Mapping[str, Any]) -> None:
        buckets: Any = histogram["buckets"]
        if isinstance(buckets, list):  # of the metrics service: [upper end in seconds or null, count]
            pairs = cast("list[tuple[float | None, int]]", buckets)
            self.buckets.update({len(BOUNDS) if end is None else bisect_left(BOUNDS, end): n for end, n in pairs})
        else:  # of a process: by index
            self.buckets.update({int(index): n for index, n in buckets.items()})
        self.sum_s += histogram["sum_s"]

    def times(self) -> ServiceTimes:
        """Raises ValueError when nothing was observed."""
        return ServiceTimes.of_histogram(self.buckets, self.sum_s)


def by_bundle(document: Any, name: str = RUNS) -> dict[str, Measured]:
    """Of every histogram ``name``, whatever holds it (reports of processes, or ``GET /metrics/combined``
    of the metrics service), by its label ``bundle``; ``""`` where it has none.
    """
    found: dict[str, Measured] = {}
    for histogram in _histograms(document, name):
        found.setdefault(histogram["labels"].get("bundle", ""), Measured()).add(histogram)
    return found


def read_measured(path: Path, bundle: str | None = None) -> dict[str, ServiceTimes]:
    """Run times by bundle, and of all together under the name ``""``; of one ``bundle`` only. Raises InvalidInput."""
    try:
        found = by_bundle(read_json(path.read_text("utf-8"), max_bytes=_MAX_BYTES))
        chosen = {name: one for name, one in found.items() if one.count and bundle in (None, name)}
        if chosen and bundle is None:
            chosen[""] = _sum(chosen.values())
        times = {name: measured.times() for name, measured in chosen.items()}
    except (OSError, UnicodeDecodeError, UnreadableDocument, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput("measured", f"cannot read {path}: {error}") from None
    if not times:
        of = "no turns" if bundle is None else f"no turns of {bundle}"
        raise InvalidInput("measured", f"{path} has {of} in a histogram {RUNS}; take it from a system under load")
    return times


def _sum(parts: Iterable[Measured]) -> Measured:
    total = Measured()
    for part in parts:
        total.buckets.update(part.buckets)
        total.sum_s += part.sum_s
    return total


def _histograms(document: Any, name: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(document, list):
        for item in cast("list[Any]", document):
            yield from _histograms(item, name)
    elif isinstance(document, dict):
        members = cast("dict[str, Any]", document)
        if members.get("name") == name:
            yield {"labels": members.get("labels", {}), **members.get("total", members)}
        else:
            for member in members.values():
                yield from _histograms(member, name)
