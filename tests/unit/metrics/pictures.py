"""Pictures as tests need them."""

from __future__ import annotations

from collections.abc import Iterable

from kdcube.metrics.picture import Buckets, Component, Count, Distribution, Level, Picture
from kdcube.protocol.turns import UserType
from kdcube.redis.queue_facts import QueueFacts
from kdcube.telemetry.catalogue import CATALOGUE
from kdcube.telemetry.instruments import BOUNDS, Histogram, Key

AT_MS = 1_790_000_000_000


def key(name: str, **labels: str) -> Key:
    assert labels.keys() == set(CATALOGUE[name].labels), name
    return name, tuple(sorted(labels.items()))


def counted(n: int, *, before: int = 0) -> Count:
    """``n`` within a minute."""
    return Count(before + n, {"1m": n, "15m": n, "1h": n + before})


def observed(*seconds: float) -> Distribution:
    """Within a minute."""
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    buckets = Buckets({index: count for index, count in enumerate(histogram.counts) if count}, histogram.sum_s)
    return Distribution(buckets, {"1m": buckets, "15m": buckets, "1h": buckets})


def level(*values: float) -> Level:
    return Level(sum(values), max(values))


def within_a_bucket(value: float | None, seconds: float) -> bool:
    """Whether a percentile is ``seconds``, to the width of a bucket."""
    return value is not None and abs(value - seconds) <= seconds * (BOUNDS[1] / BOUNDS[0] - 1)


def facts(*, present: int = 30, running: int = 10, competing: int = 12, slots: int = 16) -> QueueFacts:
    return QueueFacts(
        present=present,
        running=running,
        competing={UserType.REGISTERED: competing - 2, UserType.PAID: 2},
        oldest_s={},
        parked=present - running - competing,
        held=0,
        live_workers=2,
        live_slots=slots,
        memory_share=0.1,
        mean_turn_s=3.0,
    )


def ingress() -> Component:
    """Two processes with 300 of 800 streams; a few hundred requests."""
    served = {"method": "POST", "status": "2xx"}
    return Component(
        "ingress",
        stale=False,
        gauges={
            key("streams_open"): level(200, 100),
            key("streams_cap"): level(400, 400),
            key("queue_cap"): level(250, 250),
        },
        counters={
            key("requests_refused", reason="rate_limit_burst", status="429", user_type="paid"): counted(3, before=90),
            key("requests_refused", reason="rate_limit_hourly", status="429", user_type="paid"): counted(4),
            key("requests_refused", reason="queue_full", status="503", user_type="paid"): counted(5),
            key("requests_refused", reason="too_many_streams", status="503", user_type="anonymous"): counted(6),
            key("requests_refused", reason="store_unavailable", status="503", user_type="paid"): counted(1000),
        },
        histograms={
            key("http_request_seconds", route="/sse/chat", **served): observed(*[0.02] * 90, *[0.3] * 10),
            key("http_request_seconds", route="/conversations", **served): observed(*[0.02] * 100),
            key("http_request_seconds", route="/v1/chat/completions", **served): observed(*[60.0] * 500),
            key("http_request_seconds", route="/sse/stream", **served): observed(*[60.0] * 500),
            key("http_request_seconds", route="/sse/chat", method="POST", status="4xx"): observed(*[0.001] * 5000),
            key("http_request_seconds", route="/health", method="GET", status="2xx"): observed(*[0.001] * 5000),
        },
    )


def proc() -> Component:
    return Component(
        "proc",
        stale=False,
        gauges={key("slots"): level(8, 8), key("queue_cap"): level(250, 250)},
        histograms={
            key("turn_wait_seconds", user_type="paid"): observed(*[0.1] * 95),
            key("turn_wait_seconds", user_type="registered"): observed(*[0.1] * 90, *[4.0] * 15),
            key("turn_run_seconds", bundle="a", state="completed"): observed(*[2.0] * 100),
        },
    )


def picture(components: Iterable[Component] | None = None, queue: QueueFacts | None = None) -> Picture:
    """Everything fresh, unless other components are given."""
    given = (ingress(), proc()) if components is None else components
    return Picture(AT_MS, {component.name: component for component in given}, queue)


def stale(name: str) -> Component:
    return Component(name, stale=True)
