"""What autoscalers and alarms are told, made of a Picture. Pure.

A signal whose sources are stale is not there, nor one that cannot be known: a percentile of nothing, a share of a cap
that nobody tells. Whoever gets none of it for a while knows that nothing is known; a zero would say that all is well.
Windows are of one minute, so that two exports within it tell of the same requests: counts are to be read with the
statistics Maximum or Average, not as a Sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kdcube.config.signals import SIGNALS, SignalName
from kdcube.metrics.picture import QUEUE, Buckets, Component, Picture, merged
from kdcube.redis.queue_facts import QueueFacts

WINDOW = "1m"
INGRESS, PROC = "ingress", "proc"

NOT_ANSWERED_AT_ONCE = frozenset(
    {
        *("/sse/stream", "/turns/{turn_id}/stream"),  # told by the streams' own figures
        "/v1/chat/completions",  # without streaming it answers when the turn is over
        *("/health", "/ready"),  # quick, and most of all requests where little else happens
        "none",
    }
)
"""Routes of ingress that the latency of requests leaves out."""

FULL = frozenset({"backpressure", "queue_full", "no_capacity", "memory", "too_many_streams"})
"""Reasons of a 503 that more processes would help against. That a store is away is none of them."""


@dataclass(frozen=True, slots=True)
class Signal:
    """``value`` is in the unit of its name, and finite."""

    name: SignalName
    value: float


@dataclass(frozen=True, slots=True)
class Absent:
    """A signal that has no value now."""

    name: SignalName
    stale: bool
    """Its source is stale; else there is nothing to tell, such as a percentile of no requests."""


def signals(picture: Picture) -> list[Signal | Absent]:
    """All of ``SIGNALS``, in their order."""
    return [_signal(picture, SIGNALS[key], *_MADE[key]) for key in SIGNALS]


def _signal(
    picture: Picture, name: SignalName, source: str, made: Callable[[Picture], float | None]
) -> Signal | Absent:
    stale = picture.queue is None if source == QUEUE else picture.fresh(source) is None
    value = None if stale else made(picture)
    return Absent(name, stale) if value is None else Signal(name, value)


def _of(source: str, made: Callable[[Component], float | None]) -> tuple[str, Callable[[Picture], float | None]]:
    def of_picture(picture: Picture) -> float | None:
        component = picture.fresh(source)
        return None if component is None else made(component)

    return source, of_picture


def _of_queue(made: Callable[[QueueFacts], float | None]) -> tuple[str, Callable[[Picture], float | None]]:
    """The queue's own facts hold whether or not a worker reports: turns that nobody takes must be seen."""
    return QUEUE, lambda picture: None if picture.queue is None else made(picture.queue)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _p95_ms(buckets: Buckets) -> float | None:
    seconds = buckets.percentile_s(0.95)
    return None if seconds is None else seconds * 1000


def _latency_ms(ingress: Component) -> float | None:
    """Of answers 2xx and 3xx: refusals are quick, and would show a system as fast that takes nothing any more."""
    served: list[Buckets] = []
    for (name, labels), distribution in ingress.histograms.items():
        by_label = dict(labels)
        if (
            name == "http_request_seconds"
            and by_label["route"] not in NOT_ANSWERED_AT_ONCE
            and by_label["status"] in ("2xx", "3xx")
        ):
            served.append(distribution.windows[WINDOW])
    return _p95_ms(merged(served))


def _refused_as_full(ingress: Component) -> float:
    return sum(ingress.count("requests_refused", WINDOW, status="503", reason=reason) for reason in FULL)


def _queue_utilization(picture: Picture) -> float | None:
    """``max_queue_size`` is a limit of all together, which each process tells alike."""
    caps = [component.greatest("queue_cap") for component in picture.components.values() if not component.stale]
    told = [cap for cap in caps if cap]
    return _share(picture.queue.queued, max(told)) if told and picture.queue is not None else None


def _percent(share: tuple[str, Callable[[Picture], float | None]]) -> tuple[str, Callable[[Picture], float | None]]:
    source, made = share

    def percent(picture: Picture) -> float | None:
        value = made(picture)
        return None if value is None else value * 100

    return source, percent


_SATURATION = _of(INGRESS, lambda ingress: _share(ingress.gauge("streams_open"), ingress.gauge("streams_cap")))
_UTILIZATION = (QUEUE, _queue_utilization)

_MADE: Mapping[str, tuple[str, Callable[[Picture], float | None]]] = MappingProxyType(
    {
        "ingress.sse.total_connections": _of(INGRESS, lambda ingress: ingress.gauge("streams_open")),
        "ingress.sse.max_connections": _of(INGRESS, lambda ingress: ingress.gauge("streams_cap")),
        "ingress.sse.saturation": _SATURATION,
        "ingress.sse.saturation_percent": _percent(_SATURATION),
        "ingress.rest.latency.p95_ms": _of(INGRESS, _latency_ms),
        "ingress.throttle.rate_limit_429": _of(
            INGRESS, lambda ingress: ingress.count("requests_refused", WINDOW, status="429")
        ),
        "ingress.throttle.backpressure_503": _of(INGRESS, _refused_as_full),
        "proc.queue.total": _of_queue(lambda queue: queue.queued),
        "proc.queue.utilization": _UTILIZATION,
        "proc.queue.utilization_percent": _percent(_UTILIZATION),
        "proc.queue.wait.p95_ms": _of(PROC, lambda proc: _p95_ms(proc.buckets("turn_wait_seconds", WINDOW))),
        "proc.exec.p95_ms": _of(PROC, lambda proc: _p95_ms(proc.buckets("turn_run_seconds", WINDOW))),
        # Turns that wait for their conversation or their user would not run any sooner on more slots.
        "proc.queue.backlog_per_slot": _of_queue(lambda queue: _share(sum(queue.competing.values()), queue.live_slots)),
        "proc.active_tasks": _of_queue(lambda queue: queue.running),
        "proc.capacity.utilization": _of_queue(lambda queue: _share(queue.running, queue.live_slots)),
    }
)
"""By source key: whose staleness stops it, and how it is made while that is fresh."""
