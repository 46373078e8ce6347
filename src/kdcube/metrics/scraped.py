"""A picture for Prometheus: everything of all processes together, one report for each component.

What is stale is left out, so that Prometheus sees that it is missing; ``component_stale`` says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from kdcube.metrics.picture import QUEUE, Component, Picture
from kdcube.telemetry.catalogue import CATALOGUE, Merge
from kdcube.telemetry.exposition import COMPONENT, Exposed, exposed
from kdcube.telemetry.instruments import Instruments, Key

Json = dict[str, Any]


class Scraped:
    """Answers that are good for another scrape as long as ``ttl_s``, unless what is stale changes."""

    def __init__(self, ttl_s: float, own: Instruments, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``own``: what this service counts of itself."""
        self._ttl_s = ttl_s
        self._own = own
        self._monotonic = monotonic
        self._kept: dict[str, tuple[float, dict[str, bool], Exposed]] = {}

    def answer(self, picture: Picture, accept: str) -> Exposed:
        """In the format that the header ``accept`` prefers."""
        now, stale = self._monotonic(), picture.stale()
        kept = self._kept.get(accept)
        if kept is not None and now - kept[0] < self._ttl_s and kept[1] == stale:
            return kept[2]
        if len(self._kept) > _FORMS_MAX:
            self._kept.clear()
        answer = exposed([*reports_of(picture), {**self._own.totals(), COMPONENT: "metrics"}], accept)
        self._kept[accept] = (now, stale, answer)
        return answer


_FORMS_MAX = 16
"""Scrapers ask alike; whoever asks otherwise each time is not remembered."""


def reports_of(picture: Picture) -> list[Json]:
    """As ``telemetry.exposition`` takes them."""
    reports = [_report(component) for component in picture.components.values()]
    queue = picture.queue
    reports.append({COMPONENT: QUEUE, "gauges": [_stale(queue is None), *(queue.gauges() if queue else ())]})
    return reports


def _report(component: Component) -> Json:
    if component.stale:
        return {COMPONENT: component.name, "gauges": [_stale(True)]}
    return {
        COMPONENT: component.name,
        "gauges": [_stale(False), *_gauges(component)],
        "counters": [{**_named(key), "total": count.total} for key, count in component.counters.items()],
        "histograms": [
            {
                **_named(key),
                "sum_s": found.total.sum_s,
                "buckets": {str(index): count for index, count in found.total.counts.items()},
            }
            for key, found in component.histograms.items()
        ],
    }


def _gauges(component: Component) -> Iterable[Json]:
    for key, level in component.gauges.items():
        metric = CATALOGUE.get(key[0])
        if metric is not None:
            yield {**_named(key), "value": level.greatest if metric.merge is Merge.MAX else level.total}


def _stale(stale: bool) -> Json:
    return {"name": "component_stale", "labels": {}, "value": int(stale)}


def _named(key: Key) -> Json:
    return {"name": key[0], "labels": dict(key[1])}
