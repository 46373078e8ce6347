"""The signals that are exported, by name: what autoscalers and alarms are told. ``metrics/signals.py`` says how each is
made; METRICS_MAPPING_JSON renames by the *source key*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Unit(StrEnum):
    """Of CloudWatch, those that a signal can have."""

    COUNT = "Count"
    NONE = "None"
    PERCENT = "Percent"
    MICROSECONDS = "Microseconds"
    MILLISECONDS = "Milliseconds"
    SECONDS = "Seconds"


PER_UNIT: Mapping[Unit, Mapping[Unit, float]] = MappingProxyType(
    {
        Unit.COUNT: {Unit.COUNT: 1.0, Unit.NONE: 1.0},
        Unit.NONE: {Unit.NONE: 1.0, Unit.PERCENT: 100.0},
        Unit.PERCENT: {Unit.PERCENT: 1.0, Unit.NONE: 0.01},
        Unit.MILLISECONDS: {Unit.MILLISECONDS: 1.0, Unit.SECONDS: 0.001, Unit.MICROSECONDS: 1000.0},
        Unit.SECONDS: {Unit.SECONDS: 1.0, Unit.MILLISECONDS: 1000.0, Unit.MICROSECONDS: 1_000_000.0},
    }
)
"""By the unit of a signal: the units it may be exported in, and what its value is multiplied by then."""


@dataclass(frozen=True, slots=True)
class SignalName:
    """``name`` is that in CloudWatch and does not change. ``asked`` ones are exported only where the mapping names
    them: each metric costs its owner money.
    """

    key: str
    name: str
    unit: Unit
    help: str
    asked: bool = False


_SSE, _THROTTLE, _QUEUE = "ingress.sse", "ingress.throttle", "proc.queue"
_USER_TYPES = ("anonymous", "registered", "paid", "privileged")

_SIGNALS = (
    SignalName(f"{_SSE}.total_connections", "chat/ingress/sse/connections", Unit.COUNT, "Streams that are open."),
    SignalName(
        f"{_SSE}.saturation",
        "chat/ingress/sse/saturation",
        Unit.NONE,
        "Open streams as a share of what the live processes take, 0 to 1.",
    ),
    SignalName(
        "ingress.rest.latency.p95_ms",
        "chat/ingress/rest/latency/p95",
        Unit.MILLISECONDS,
        "Time until an answer begins, of requests that were served; without probes, streams and completions.",
    ),
    SignalName(
        f"{_THROTTLE}.rate_limit_429",
        "chat/ingress/throttle/rate_limit_429",
        Unit.COUNT,
        "Requests refused with 429 within the last minute.",
    ),
    SignalName(
        f"{_THROTTLE}.backpressure_503",
        "chat/ingress/throttle/backpressure_503",
        Unit.COUNT,
        "Requests refused with 503 within the last minute because the system is full.",
    ),
    SignalName(f"{_QUEUE}.total", "chat/proc/queue/total", Unit.COUNT, "Turns that were admitted and have no worker."),
    SignalName(
        f"{_QUEUE}.utilization",
        "chat/proc/queue/utilization",
        Unit.NONE,
        "The same as a share of max_queue_size; absent without that limit.",
    ),
    SignalName(
        f"{_QUEUE}.wait.p95_ms", "chat/proc/queue/wait/p95", Unit.MILLISECONDS, "From acceptance to START of turns."
    ),
    SignalName("proc.exec.p95_ms", "chat/proc/exec/p95", Unit.MILLISECONDS, "From START to the end of turns."),
    SignalName(
        f"{_QUEUE}.backlog_per_slot",
        "chat/proc/queue/backlog_per_slot",
        Unit.NONE,
        "Turns that wait for a slot and for nothing else, per slot of the workers that live.",
    ),
    SignalName(
        "proc.capacity.utilization",
        "chat/proc/slots/utilization",
        Unit.NONE,
        "Turns that have a worker, as a share of the slots of the workers that live.",
    ),
    SignalName(
        f"{_SSE}.max_connections",
        "chat/ingress/sse/max_connections",
        Unit.COUNT,
        "Streams that the live processes take.",
        asked=True,
    ),
    SignalName(
        f"{_SSE}.saturation_percent",
        "chat/ingress/sse/saturation_percent",
        Unit.PERCENT,
        f"{_SSE}.saturation, 0 to 100.",
        asked=True,
    ),
    SignalName(
        f"{_QUEUE}.utilization_percent",
        "chat/proc/queue/utilization_percent",
        Unit.PERCENT,
        f"{_QUEUE}.utilization, 0 to 100.",
        asked=True,
    ),
    SignalName("proc.active_tasks", "chat/proc/turns/running", Unit.COUNT, "Turns that have a worker.", asked=True),
)

SIGNALS: Mapping[str, SignalName] = MappingProxyType({signal.key: signal for signal in _SIGNALS})
"""By source key."""

OLDER: Mapping[str, str] = MappingProxyType(
    {
        f"{_SSE}.saturation_ratio": f"{_SSE}.saturation",
        "ingress.rest.latency.p95": "ingress.rest.latency.p95_ms",
        "ingress.throttling.rate_limit_429": f"{_THROTTLE}.rate_limit_429",
        "ingress.throttling.backpressure_503": f"{_THROTTLE}.backpressure_503",
        "throttling.rate_limit_429": f"{_THROTTLE}.rate_limit_429",
        "throttling.backpressure_503": f"{_THROTTLE}.backpressure_503",
        f"{_QUEUE}.depth": f"{_QUEUE}.total",
        f"{_QUEUE}.depth.1m": f"{_QUEUE}.total",
        f"{_QUEUE}.utilization_ratio": f"{_QUEUE}.utilization",
        f"{_QUEUE}.wait.p95": f"{_QUEUE}.wait.p95_ms",
        f"{_QUEUE}.wait_ms_p95": f"{_QUEUE}.wait.p95_ms",
        "proc.exec.p95": "proc.exec.p95_ms",
    }
)
"""Source keys that the older service or its pages had for the same."""

_PRESSURE = f"{_QUEUE}.backlog_per_slot says how full the workers are"

WITHOUT_SIGNAL: Mapping[str, str] = MappingProxyType(
    {
        f"{_SSE}.sessions": "sessions are not counted, only streams",
        "proc.pressure_ratio_percent": _PRESSURE,
        f"{_QUEUE}.pressure_ratio": _PRESSURE,
        f"{_QUEUE}.pressure_ratio.1m": _PRESSURE,
        **{f"{_QUEUE}.avg_wait_seconds.{name}": f"{_QUEUE}.wait.p95_ms says it for all" for name in _USER_TYPES},
    }
)
"""Source keys of the older service that nothing corresponds to, and why: they are told, and do nothing."""


def table() -> Iterable[str]:
    """The lines of docs/metrics.md that show the signals."""
    yield "| source key | name in CloudWatch | unit | what |"
    yield "| --- | --- | --- | --- |"
    for signal in _SIGNALS:
        asked = " Exported where the mapping names it." if signal.asked else ""
        yield f"| `{signal.key}` | `{signal.name}` | {signal.unit} | {signal.help}{asked} |"
