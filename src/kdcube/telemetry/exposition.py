"""Reports as Prometheus reads them: OpenMetrics or its older text format, whichever a scraper asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from kdcube.telemetry.catalogue import CATALOGUE, PREFIX, Kind, Metric
from kdcube.telemetry.instruments import BOUNDS

COMPONENT = "component"
"""The label that each sample has before those of its metric."""

EVERY = 4
"""Of the buckets' bounds every fourth is shown, a doubling each: what is shown is exact, and a fourth as much."""
_SHOWN = tuple((index, repr(BOUNDS[index])) for index in range(0, len(BOUNDS), EVERY))


@dataclass(frozen=True, slots=True)
class Exposed:
    body: bytes
    content_type: str


def exposed(
    reports: Iterable[Mapping[str, Any]], accept: str = "", *, metrics: Mapping[str, Metric] = CATALOGUE
) -> Exposed:
    """The totals of ``reports``, in the format that the header ``accept`` prefers.

    A report has ``component``, and ``counters``, ``gauges`` and ``histograms`` as ``Instruments.totals`` gives them.
    No two may have the same sample: what comes from several processes is to be merged before. What is not in
    ``metrics`` is left out: it is of another release.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reports(tuple(reports), metrics))
    encode, content_type = choose_encoder(accept)
    return Exposed(encode(registry), content_type)


class _Reports(Collector):
    def __init__(self, reports: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> None:
        self._reports = reports
        self._metrics = metrics

    def collect(self) -> Iterable[Family]:
        families: dict[str, Family] = {}
        for report in self._reports:
            for kind, member in ((Kind.COUNTER, "counters"), (Kind.GAUGE, "gauges"), (Kind.HISTOGRAM, "histograms")):
                for entry in report.get(member, ()):
                    metric = self._metrics.get(entry["name"])
                    if metric is None or metric.kind is not kind or entry["labels"].keys() != set(metric.labels):
                        continue
                    family = families.get(metric.name) or families.setdefault(metric.name, _family(metric))
                    labels = [report[COMPONENT], *(entry["labels"][label] for label in metric.labels)]
                    _add(family, labels, entry)
        return [families[name] for name in self._metrics if name in families]


def _family(metric: Metric) -> Family:
    labels = (COMPONENT, *metric.labels)
    made = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.GAUGE: GaugeMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }[metric.kind]
    return made(PREFIX + metric.name, metric.help, labels=labels, unit=metric.unit)


def _add(family: Family, labels: list[str], entry: Mapping[str, Any]) -> None:
    match family:
        case CounterMetricFamily():
            family.add_metric(labels, entry["total"])
        case GaugeMetricFamily():
            family.add_metric(labels, entry["value"])
        case HistogramMetricFamily():
            family.add_metric(labels, _cumulated(entry["buckets"]), entry["sum_s"])
        case _:
            raise AssertionError("no other family is made here")


def _cumulated(sparse: Mapping[str, int]) -> list[tuple[str, float]]:
    """How many observations were at most each bound that is shown, and how many there were."""
    below = list(accumulate(sparse.get(str(index), 0) for index in range(len(BOUNDS) + 1)))
    return [*((text, below[index]) for index, text in _SHOWN), ("+Inf", below[-1])]
