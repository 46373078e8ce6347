"""From the reports of all processes to one picture. Pure: what is stale is shown as stale and adds nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from kdcube.redis.sources import SourceReport
from kdcube.telemetry.instruments import SCHEMA, WINDOWS
from kdcube.telemetry.percentiles import merged, percentile_s

STALE_S = 15.0
"""A process that missed three of its reports."""

Json = dict[str, Any]


class SourceState(StrEnum):
    """Whether the report of a source counts."""

    LIVE = "live"
    STALE = "stale"
    OTHER_RELEASE = "other_release"
    """It has a shape that this release does not know."""


def fresh(sources: Iterable[SourceReport]) -> list[Mapping[str, Any]]:
    """The reports that count: of processes that live, in the shape that this release knows."""
    return [source.report for source in sources if source.report is not None and state_of(source) is SourceState.LIVE]


def instances(sources: Sequence[SourceReport]) -> list[Json]:
    """Every process that is listed, with its gauges while it lives."""
    told: list[Json] = []
    for source in sources:
        report, state = source.report, state_of(source)
        entry: Json = {"instance": source.source, "state": state, "seen_s": round(source.age_s, 1)}
        if report is not None and state is not SourceState.OTHER_RELEASE:
            entry |= {"component": report["component"], "started_ms": report["started_ms"], **report["about"]}
        if report is not None and state is SourceState.LIVE:
            entry["gauges"] = {_named(gauge): gauge["value"] for gauge in report["gauges"]}
        told.append(entry)
    return told


def gauge_sum(reports: Iterable[Mapping[str, Any]], name: str) -> float:
    return sum(gauge["value"] for report in reports for gauge in report["gauges"] if gauge["name"] == name)


def latencies(reports: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Json]]:
    """By window: percentiles of the histograms ``name``, merged over all processes, an entry per set of labels."""
    told: dict[str, list[Json]] = {}
    for window in WINDOWS:
        groups: defaultdict[tuple[tuple[str, str], ...], list[Mapping[str, int]]] = defaultdict(list)
        for report in reports:
            for histogram in report["histograms"]:
                if histogram["name"] == name and histogram["windows"][window]:
                    groups[tuple(sorted(histogram["labels"].items()))].append(histogram["windows"][window])
        told[window] = [{**dict(labels), **_percentiles(groups[labels])} for labels in sorted(groups)]
    return told


def counts(reports: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Json]]:
    """By window: the sums of the counters ``name`` over all processes, one entry for each set of labels."""
    told: dict[str, list[Json]] = {}
    for window in WINDOWS:
        groups: defaultdict[tuple[tuple[str, str], ...], int] = defaultdict(int)
        for report in reports:
            for counter in report["counters"]:
                if counter["name"] == name and counter["windows"][window]:
                    groups[tuple(sorted(counter["labels"].items()))] += counter["windows"][window]
        told[window] = [{**dict(labels), "count": groups[labels]} for labels in sorted(groups)]
    return told


def _percentiles(reports: Iterable[Mapping[str, int]]) -> Json:
    buckets = merged(reports)
    told: Json = {"count": sum(buckets.values())}
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        value = percentile_s(buckets, share)
        told[name] = None if value is None else round(value * 1000, 2)
    return told


def state_of(source: SourceReport) -> SourceState:
    if source.report is not None and source.report.get("schema") != SCHEMA:
        return SourceState.OTHER_RELEASE
    lives = source.report is not None and source.age_s <= STALE_S
    return SourceState.LIVE if lives else SourceState.STALE


def _named(gauge: Mapping[str, Any]) -> str:
    labels: Mapping[str, str] = gauge["labels"]
    return gauge["name"] + "".join(f".{value}" for value in labels.values())
