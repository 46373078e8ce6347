"""What is known of all processes at one moment: the truth about load, for people, for exports, for autoscalers.

What is not known is not there. A component without a fresh source is stale and has no figures; zero never stands for
them. Percentiles come from buckets that were added up, never from other percentiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kdcube.gateway.monitoring import SourceState
from kdcube.redis.queue_facts import QueueFacts
from kdcube.telemetry.instruments import Key
from kdcube.telemetry.percentiles import percentile_s

V = TypeVar("V")

QUEUE = "queue"
"""What Valkey tells of the queue stands beside the components under this name."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One process, as long as it is listed."""

    name: str
    component: str | None
    """None: it is of a release whose reports are not known here, and so is its component."""
    state: SourceState
    seen_s: float
    """Since its last report."""
    started_ms: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its version, revision, checksum of its configuration and more."""
    gauges: Mapping[Key, float] = field(default_factory=dict[Key, float])
    """Of a live one only."""


@dataclass(frozen=True, slots=True)
class Level:
    """One gauge over all live instances."""

    total: float
    greatest: float
    """For what all of them say alike, as a limit of the whole installation, and for what is as bad as its worst."""


@dataclass(frozen=True, slots=True)
class Count:
    """One counter over all instances, those that are no more included."""

    total: float
    """Since this service began; it never goes back."""
    windows: Mapping[str, float]
    """By name: what was counted within the window that ends now."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Observations by the index of their bucket in ``telemetry.instruments.BOUNDS``."""

    counts: Mapping[int, int]
    sum_s: float = 0.0
    """Of the totals; windows have none."""

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def percentile_s(self, share: float) -> float | None:
        """Within a bucket by interpolation; None of none."""
        return percentile_s(self.counts, share)


@dataclass(frozen=True, slots=True)
class Distribution:
    """One histogram over all instances, those that are no more included; as ``Count``."""

    total: Buckets
    windows: Mapping[str, Buckets]


@dataclass(frozen=True, slots=True)
class Component:
    """All processes of one kind. While ``stale`` there are no figures."""

    name: str
    stale: bool
    instances: tuple[Instance, ...] = ()
    gauges: Mapping[Key, Level] = field(default_factory=dict[Key, Level])
    counters: Mapping[Key, Count] = field(default_factory=dict[Key, Count])
    histograms: Mapping[Key, Distribution] = field(default_factory=dict[Key, Distribution])

    @property
    def live(self) -> int:
        return sum(instance.state is SourceState.LIVE for instance in self.instances)

    def gauge(self, name: str, **labels: str) -> float | None:
        """The sum over live instances and over all label sets that have ``labels``; None when nobody tells it."""
        levels = list(_having(self.gauges, name, labels))
        return sum(level.total for level in levels) if levels else None

    def greatest(self, name: str, **labels: str) -> float | None:
        """As ``gauge``, but the greatest of all values."""
        return max((level.greatest for level in _having(self.gauges, name, labels)), default=None)

    def count(self, name: str, window: str, **labels: str) -> float:
        """What was counted within ``window``, over all label sets that have ``labels``: 0 when nothing ever was."""
        return sum(count.windows[window] for count in _having(self.counters, name, labels))

    def buckets(self, name: str, window: str, **labels: str) -> Buckets:
        """What was observed within ``window``, over all label sets that have ``labels``."""
        return merged(found.windows[window] for found in _having(self.histograms, name, labels))

    def percentile_s(self, name: str, window: str, share: float, **labels: str) -> float | None:
        """Of what ``buckets`` gives; None when nothing was observed."""
        return self.buckets(name, window, **labels).percentile_s(share)


@dataclass(frozen=True, slots=True)
class Picture:
    """One moment. ``components`` has those that every installation has, and whichever else was ever seen."""

    at_ms: int
    components: Mapping[str, Component]
    queue: QueueFacts | None
    """None: Valkey does not answer, or its working state is being built, so that what stands there is not the truth."""
    others: tuple[Instance, ...] = ()
    """Processes of which no component is known."""
    blind: str | None = None
    """Why nothing could be read; everything is stale then."""

    def fresh(self, component: str) -> Component | None:
        """None when it is stale, or was never seen."""
        found = self.components.get(component)
        return None if found is None or found.stale else found

    def stale(self) -> dict[str, bool]:
        """By component, the queue among them."""
        return {name: found.stale for name, found in self.components.items()} | {QUEUE: self.queue is None}


def merged(parts: Iterable[Buckets]) -> Buckets:
    """The sum."""
    counts: Counter[int] = Counter()
    total_s = 0.0
    for part in parts:
        counts.update(part.counts)
        total_s += part.sum_s
    return Buckets(counts, total_s)


def _having(figures: Mapping[Key, V], name: str, labels: Mapping[str, str]) -> Iterator[V]:
    wanted = set(labels.items())
    return (value for key, value in figures.items() if key[0] == name and wanted <= set(key[1]))
