"""Spans by OpenTelemetry, sent to a collector over OTLP/HTTP. Imported only where an endpoint is configured.

Spans wait in a bounded queue for a thread that sends them. When the collector is slow or away they are lost, counted,
and said in the log once; no work ever waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from kdcube.protocol.trace_context import TraceContext
from kdcube.telemetry.tracing import Attributes, Kind

HELD_MAX = 4096
"""Spans that wait to be sent: about 10 MB."""
BATCH_MAX = 512
EVERY_S = 2.0
SEND_LIMIT_S = 10.0
"""For one batch, with all its repeats."""
CLOSE_S = 2.0
"""What a process that stops gives to the spans that are left."""

_ROOT = Context()
_KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CONSUMER: SpanKind.CONSUMER}

logger = structlog.get_logger(__name__)


class RecordedSpan:
    """A span of OpenTelemetry's, as ``kdcube.telemetry.tracing.Span``."""

    __slots__ = ("_span", "context", "recording")

    def __init__(self, span: OtelSpan, tracestate: str) -> None:
        self._span = span
        self.recording = span.is_recording()
        own = span.get_span_context()
        self.context = TraceContext(f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags & 1:02x}", tracestate)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, why: str) -> None:
        self._span.set_attribute("error.type", why)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, at_ms: int | None = None) -> None:
        if self._span.is_recording():
            self._span.end(None if at_ms is None else at_ms * 1_000_000)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


class OtlpTracing:
    """Tracing whose spans go to ``queue``. Made by ``open_otlp``."""

    on = True

    def __init__(self, tracer: Tracer, queue: SpanQueue) -> None:
        self._tracer = tracer
        self._queue = queue

    @property
    def sent(self) -> int:
        return self._queue.sent

    @property
    def lost(self) -> int:
        return self._queue.lost

    def begin(
        self, name: str, parent: TraceContext | None, kind: Kind = Kind.INTERNAL, *, at_ms: int | None = None
    ) -> RecordedSpan:
        context, tracestate = _ROOT, ""
        if parent is not None:
            flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
            before = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
            context, tracestate = set_span_in_context(NonRecordingSpan(before), _ROOT), parent.tracestate
        start_ns = None if at_ms is None else at_ms * 1_000_000
        span = self._tracer.start_span(
            name, context, _KINDS[kind], start_time=start_ns, record_exception=False, set_status_on_exception=False
        )
        return RecordedSpan(span, tracestate)


class SpanQueue(SpanProcessor):
    """Sends spans that have ended, in batches, by a thread of its own."""

    def __init__(
        self, exporter: SpanExporter, *, held_max: int = HELD_MAX, batch_max: int = BATCH_MAX, every_s: float = EVERY_S
    ) -> None:
        self._exporter = exporter
        self._held_max = held_max
        self._batch_max = batch_max
        self._every_s = every_s
        self._held: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._away = False
        self.sent = 0
        """Spans that the collector has taken."""
        self.lost = 0
        """Spans that it has not: it was away or refused them, or they came faster than they could be sent."""
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._held) >= self._held_max:
            self.lost += 1
            return
        self._held.append(span)
        if len(self._held) == self._batch_max:
            self._wake.set()

    async def close(self, within_s: float = CLOSE_S) -> None:
        """Sends what is left if that takes no longer; the rest is lost."""
        self._closing = True
        self._wake.set()
        if self._away:
            self._exporter.shutdown()
            return
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, within_s)
        self._exporter.shutdown()  # ends what is under way, between two repeats at the latest; nobody waits for it

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._every_s)
            self._wake.clear()
            while self._held and self._send():
                pass

    def _send(self) -> bool:
        """One batch. False when it was not taken: the next one can wait."""
        batch = [self._held.popleft() for _ in range(min(len(self._held), self._batch_max))]
        try:
            taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever a library raises here must not end the thread
            taken = False
            if not self._away:
                logger.warning("tracing.export_failed", reason=f"{type(error).__name__}: {error}")
        if taken:
            self.sent += len(batch)
            if self._away:
                logger.info("tracing.collector_back", spans_lost=self.lost)
        else:
            self.lost += len(batch)
            if not self._away:
                logger.warning("tracing.collector_away", spans_lost=self.lost)
        self._away = not taken
        return taken


class _OncePerOutage(logging.Filter):
    """Lets the exporter say why a batch was not taken, and not again until one is."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: SpanQueue | None = None
        self._told_at = -1

    def filter(self, record: logging.LogRecord) -> bool:
        sent = self.queue.sent if self.queue else 0
        told, self._told_at = self._told_at == sent, sent
        return not told


def _sampler(name: str, share: float) -> sampling.Sampler:
    """By its name in OTEL_TRACES_SAMPLER."""
    own: sampling.Sampler
    match name.removeprefix("parentbased_"):
        case "always_on":
            own = sampling.ALWAYS_ON
        case "always_off":
            own = sampling.ALWAYS_OFF
        case "traceidratio":
            own = sampling.TraceIdRatioBased(share)
        case _:
            raise ValueError(f"there is no sampler {name!r}")
    return sampling.ParentBased(own) if name.startswith("parentbased_") else own


@asynccontextmanager
async def open_otlp(
    *, endpoint: str, headers: Mapping[str, str], sampler: str, share: float, resource: Mapping[str, str], version: str
) -> AsyncGenerator[OtlpTracing]:
    """Spans for the collector at ``endpoint``, which is the whole URL. ``sampler`` is one of OTEL_TRACES_SAMPLER, and
    ``share`` its argument; ``resource`` says whose spans they are.
    """
    said = logging.getLogger(OTLPSpanExporter.__module__)
    once = _OncePerOutage()
    said.addFilter(once)
    queue = SpanQueue(OTLPSpanExporter(endpoint=endpoint, headers=dict(headers), timeout=SEND_LIMIT_S))
    once.queue = queue
    provider = TracerProvider(_sampler(sampler, share), Resource.create(dict(resource)), shutdown_on_exit=False)
    provider.add_span_processor(queue)
    try:
        yield OtlpTracing(provider.get_tracer("kdcube", version), queue)
    finally:
        await queue.close()
        said.removeFilter(once)
