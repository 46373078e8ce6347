"""The one table of everything that is counted and measured, whoever does it and whoever shows it.

A name here is Prometheus' without ``kdcube_`` and, of a counter, without ``_total``; ``exposition.py`` adds both, and
the label ``component`` to each sample. What is not in the table cannot be counted: ``Instruments`` refuses it.

Labels take few values: a route's pattern, never a path; a user type, never a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

PREFIX = "kdcube_"


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    """Of seconds, in the buckets of ``instruments.BOUNDS``."""


class Merge(StrEnum):
    """How the gauges of several processes become one."""

    SUM = "sum"
    MAX = "max"
    """All of them say the same thing, or the worst of them is what matters."""


@dataclass(frozen=True, slots=True)
class Metric:
    """``unit`` is that of the value, and the end of the name; empty where things are counted."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    merge: Merge = Merge.SUM

    @property
    def shown(self) -> str:
        """The name of its samples in Prometheus; a histogram's have a further suffix."""
        return PREFIX + self.name + ("_total" if self.kind is Kind.COUNTER else "")


def _counter(name: str, help_: str, *labels: str, unit: str = "") -> Metric:
    return Metric(name, Kind.COUNTER, help_, labels, unit)


def _gauge(name: str, help_: str, *labels: str, unit: str = "", merge: Merge = Merge.SUM) -> Metric:
    return Metric(name, Kind.GAUGE, help_, labels, unit, merge)


def _times(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, help_, labels, "seconds")


_REQUESTS = (
    _times(
        "http_request_seconds",
        "From a request to the head of its answer, by method, pattern of the route and class of the status.",
        *("method", "route", "status"),
    ),
    _counter(
        "requests_refused",
        "Requests that were answered with 429 or 503, by the word of the error.",
        *("reason", "status", "user_type"),
    ),
    _counter(
        "admissions",
        "Messages that were taken, by outcome: admitted (a turn), delivered (a steer), duplicate (known before).",
        *("outcome", "user_type"),
    ),
    _counter("admissions_refused", "Messages that admission refused, by reason.", "reason", "user_type"),
)

_STREAMS = (
    _gauge("streams_open", "Streams that are open."),
    _gauge("streams_cap", "Streams that may be open."),
    _counter("streams_opened", "Streams that were opened: of a user, of a turn, or of a completion.", "kind"),
    _counter("streams_resumed", "Of those, streams that went on from a cursor or an offset.", "kind"),
    _counter(
        "streams_ended",
        "Streams that ended: completed, left (the client went), drained, stalled (the client took nothing), "
        "cut (its login or key was over), failed.",
        "reason",
    ),
    _counter("stream_events", "Events of turns and feeds that were written to streams."),
    _counter("stream_bytes", "Bytes of events that were written to streams.", unit="bytes"),
    _counter("stream_resyncs", "Times that what a client shows of a turn was replaced, as it could not be continued."),
)

_QUEUE = (
    _gauge("queue_turns", "Turns that wait for a slot and for nothing else.", "user_type"),
    _gauge("queue_oldest_seconds", "Age of the oldest of them.", "user_type", unit="seconds", merge=Merge.MAX),
    _gauge("queue_parked", "Turns and steers that wait behind another turn of their conversation."),
    _gauge("queue_held", "Turns that wait because their user has as many as may compete."),
    _gauge("turns_queued", "Turns that were admitted and have no worker, as admission counts them."),
    _gauge("turns_leased", "Turns that have a worker."),
    _gauge("live_slots", "Slots of the workers that beat."),
    _gauge("live_workers", "Workers that beat."),
    _gauge("valkey_memory_ratio", "Share of its memory budget that Valkey uses.", unit="ratio", merge=Merge.MAX),
    _gauge("queue_cap", "Turns that may wait (max_queue_size); absent without a limit.", merge=Merge.MAX),
)

_TURNS = (
    _gauge("slots", "Turns that this worker may run at once."),
    _gauge("turns_running", "Turns under a claim of this worker."),
    _gauge("draining", "1 while the process takes nothing new."),
    _counter("claims", "Turns that were claimed.", "user_type"),
    _counter("claims_returned", "Claims that gave their turn back to the queue."),
    _counter("attempts", "STARTs of turns.", "bundle"),
    _counter("attempts_repeated", "Of those, attempts behind the first.", "bundle"),
    _times("turn_wait_seconds", "From acceptance to START.", "user_type"),
    _times("turn_first_output_seconds", "From START to the first that the bundle says.", "bundle"),
    _times("turn_run_seconds", "From START to the end.", "bundle", "state"),
    _counter("turns_ended", "Turns that ended, by whichever part ended them.", "bundle", "state"),
    _counter("leases_expired", "Leases that ran out and were settled by the reaper.", "state"),
    _counter("leases_lost", "Leases that this worker found lost."),
    _counter("tokens_used", "Tokens that bundles reported (turn.usage).", "bundle", "direction", "model"),
    _gauge("leading", "1 in the proc that does the maintenance for all."),
    _counter("working_state_rebuilds", "Times that Valkey's working state was built anew from PostgreSQL."),
)

_BUNDLES = (
    _gauge("hosts", "Processes of bundles.", "bundle"),
    _counter("hosts_started", "Processes of bundles that were started and loaded.", "bundle"),
    _counter("hosts_lost", "Processes of bundles that ended otherwise than by proc's will.", "bundle", "reason"),
    _gauge("host_memory_bytes", "Memory of the processes of a bundle (resident).", "bundle", unit="bytes"),
    _times("host_loop_lag_seconds", "Delays in the event loops of a bundle, asked each second.", "bundle"),
    _gauge("operations_running", "Operations that run."),
    _gauge("operations_waiting", "Operations that wait for a place."),
    _gauge("operations_cap", "Operations that may run at once."),
    _times("operation_seconds", "An operation from its place to its outcome.", "bundle", "outcome"),
    _counter("executions", "Executions of code. (Reserved: they come with code execution.)", "bundle", "outcome"),
    _times("execution_seconds", "An execution of code. (Reserved.)", "bundle", "outcome"),
)

_STORES = (
    _gauge("postgres_pool_size", "Connections to PostgreSQL that are open."),
    _gauge("postgres_pool_idle", "Of those, connections that nobody uses."),
    _gauge("postgres_pool_max", "Connections to PostgreSQL that may be open."),
    _gauge("postgres_pool_waiting", "Calls that wait for a connection to PostgreSQL."),
    _times("postgres_call_seconds", "A call of PostgreSQL, the wait for a connection included, whatever came of it."),
    _gauge("valkey_connected", "1 while there is a connection to Valkey."),
    _times("valkey_ping_seconds", "A round trip to Valkey, tried each second."),
    _gauge("breaker_open", "1 while calls of a dependency are refused, as it is known to be away.", "dependency"),
    _counter("breaker_opened", "Times that a dependency was found to be away.", "dependency"),
)

_LOGINS = (
    _counter("sign_ins", "Users who came back from the identity provider: signed_in or failed.", "outcome"),
    _counter("login_refreshes", "Attempts to refresh a login's tokens: granted, refused, failed.", "outcome"),
)

_PROCESSES = (
    _counter("process_cpu_seconds", "CPU time of the process.", unit="seconds"),
    _gauge("process_memory_bytes", "Memory of the process (resident).", unit="bytes"),
    _times("loop_lag_seconds", "How much later than asked the event loop woke a task, tried twice a second."),
    _counter("spans_sent", "Spans that the collector of traces has taken."),
    _counter("spans_lost", "Spans that it has not: it was away or refused them, or they came too fast."),
)

_SERVICE = (
    _gauge("component_stale", "1 for a component without a fresh report; its other figures are left out."),
    _gauge(
        "export_age_seconds",
        "Time since a target of exports (cloudwatch, pushgateway) took one.",
        "target",
        unit="seconds",
        merge=Merge.MAX,
    ),
    _gauge("export_interval_seconds", "Time that is meant to be between two exports.", "target", unit="seconds"),
    _counter(
        "exports",
        "Exports by outcome: sent, failed, or nothing, as all sources were stale.",
        *("target", "outcome"),
    ),
)


def catalogue(*metrics: Metric) -> Mapping[str, Metric]:
    """By name. Raises ValueError for one that breaks a convention."""
    table: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in table:
            raise ValueError(f"{metric.name} is there twice")
        if metric.unit and not metric.name.endswith("_" + metric.unit):
            raise ValueError(f"{metric.name} must end with its unit, {metric.unit}")
        if metric.name.endswith(("_total", "_sum", "_count", "_bucket", "_created", "_info")):
            raise ValueError(f"{metric.name} ends as only Prometheus' own samples do")
        table[metric.name] = metric
    return MappingProxyType(table)


SECTIONS: Mapping[str, tuple[Metric, ...]] = MappingProxyType(
    {
        "Requests": _REQUESTS,
        "Streams": _STREAMS,
        "Queue": _QUEUE,
        "Turns": _TURNS,
        "Bundles": _BUNDLES,
        "Stores and other dependencies": _STORES,
        "Logins": _LOGINS,
        "Processes": _PROCESSES,
        "The metrics service": _SERVICE,
    }
)
"""As docs/metrics.md shows them."""

CATALOGUE: Mapping[str, Metric] = catalogue(*(metric for section in SECTIONS.values() for metric in section))


def table() -> Iterable[str]:
    """The lines of docs/metrics.md that show the catalogue."""
    for section, metrics in SECTIONS.items():
        yield f"### {section}"
        yield ""
        yield "| metric | kind | labels | what |"
        yield "| --- | --- | --- | --- |"
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            yield f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.help} |"
        yield ""
