"""A picture as JSON, for people and programs. What is stale has no figures: null, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kdcube.metrics.picture import QUEUE, Buckets, Component, Instance, Picture
from kdcube.redis.queue_facts import QueueFacts
from kdcube.telemetry.instruments import BOUNDS, Key, Labels

Json = dict[str, Any]

_PERCENTILES = (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99))


def component_view(picture: Picture, name: str) -> Json | None:
    """One component, and of proc the queue that it works on; None for one that was never seen."""
    component = picture.components.get(name)
    if component is None:
        return None
    queue = {QUEUE: _queue(picture.queue)} if name == "proc" else {}
    return {**_moment(picture), "component": name, **_component(component), **queue}


def combined_view(picture: Picture) -> Json:
    """Everything that is known."""
    return {
        **_moment(picture),
        "components": {name: _component(component) for name, component in picture.components.items()},
        QUEUE: _queue(picture.queue),
        "others": [_instance(instance) for instance in picture.others],
    }


def _moment(picture: Picture) -> Json:
    return {"at_ms": picture.at_ms, "blind": picture.blind}


def _component(component: Component) -> Json:
    told: Json = {
        "stale": component.stale,
        "live": component.live,
        "instances": [_instance(instance) for instance in component.instances],
    }
    if component.stale:
        return {**told, "gauges": None, "counters": None, "histograms": None}
    return {
        **told,
        "gauges": [
            {**_named(key), "sum": level.total, "max": level.greatest}
            for key, level in sorted(component.gauges.items())
        ],
        "counters": [
            {**_named(key), "total": count.total, "windows": dict(count.windows)}
            for key, count in sorted(component.counters.items())
        ],
        "histograms": [
            {
                **_named(key),
                "total": {**_buckets(found.total), "sum_s": round(found.total.sum_s, 6)},
                "windows": {name: _buckets(buckets) for name, buckets in found.windows.items()},
            }
            for key, found in sorted(component.histograms.items())
        ],
    }


def _queue(facts: QueueFacts | None) -> Json:
    if facts is None:
        return {"stale": True}
    return {"stale": False, "queued": facts.queued, **asdict(facts)}


def _instance(instance: Instance) -> Json:
    return {
        "instance": instance.name,
        "component": instance.component,
        "state": instance.state,
        "seen_s": round(instance.seen_s, 1),
        "started_ms": instance.started_ms,
        "about": instance.about,
        "gauges": [{**_named(key), "value": value} for key, value in sorted(instance.gauges.items())],
    }


def _buckets(buckets: Buckets) -> Json:
    """``buckets``: the upper end in seconds (null beyond the last) and how many were in it, of those that had any."""
    told: Json = {"count": buckets.count}
    for name, share in _PERCENTILES:
        seconds = buckets.percentile_s(share)
        told[name] = None if seconds is None else round(seconds * 1000, 2)
    told["buckets"] = [
        [BOUNDS[index] if index < len(BOUNDS) else None, count] for index, count in sorted(buckets.counts.items())
    ]
    return told


def _named(key: Key) -> Json:
    return {"name": key[0], "labels": _labels(key[1])}


def _labels(labels: Labels) -> Mapping[str, str]:
    return dict(labels)
