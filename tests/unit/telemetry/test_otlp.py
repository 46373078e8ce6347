from __future__ import annotations

import logging
import threading

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from tests.collector import collector

from kdcube.local.ports import free_port
from kdcube.protocol.trace_context import TraceContext
from kdcube.telemetry.otlp import SpanQueue, open_otlp
from kdcube.telemetry.tracing import NO_TRACING, Kind

pytestmark = pytest.mark.anyio

CLIENT = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=x")
UNSAMPLED = TraceContext(CLIENT.traceparent[:-1] + "0")


def tracing(endpoint: str, sampler: str = "parentbased_always_on", share: float = 1.0):
    return open_otlp(
        endpoint=f"{endpoint}/v1/traces", headers={"x-key": "hunter2"}, sampler=sampler, share=share,
        resource={"service.name": "kdcube-test"}, version="1",
    )  # fmt: skip


class Gated(SpanExporter):
    """Takes nothing until it is told to."""

    def __init__(self) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.batches: list[int] = []
        self.result = SpanExportResult.SUCCESS

    def export(self, spans) -> SpanExportResult:
        self.begun.set()
        self.goes_on.wait()
        self.batches.append(len(spans))
        return self.result

    def shutdown(self) -> None:
        self.goes_on.set()


async def test_spans_reach_a_collector_with_their_trace():
    with collector() as collecting:
        async with tracing(collecting.url) as traces:
            request = traces.begin("POST", CLIENT, Kind.SERVER)
            request.rename("POST /x")
            with pytest.raises(RuntimeError), traces.begin("turn.admit", request.context):
                raise RuntimeError("hunter2")
            wait = traces.begin("turn.wait", request.context, at_ms=1_700_000_000_000)
            wait.end(1_700_000_000_250)
            wait.end()
            request.set({"a": 1})
            request.end()
            root = traces.begin("alone", None)
            root.end()
        spans = collecting.trace(CLIENT.trace_id, "POST /x", "turn.admit", "turn.wait")
        assert collecting.headers[0]["x-key"] == "hunter2"
        assert spans["POST /x"].parent_id == CLIENT.span_id and spans["POST /x"].attributes == {"a": 1}
        assert {spans[name].parent_id for name in ("turn.admit", "turn.wait")} == {request.context.span_id}
        assert (spans["turn.wait"].start_ms, spans["turn.wait"].end_ms) == (1_700_000_000_000, 1_700_000_000_250)
        assert spans["turn.admit"].failed and spans["turn.admit"].attributes == {"error.type": "RuntimeError"}
        assert collecting.trace(root.context.trace_id, "alone")["alone"].parent_id == ""
        assert (request.context.trace_id, request.context.sampled) == (CLIENT.trace_id, True)
        assert request.context.tracestate == "vendor=x" and traces.sent == 4


async def test_who_samples():
    with collector() as collecting:
        async with tracing(collecting.url) as traces:
            kept_out = traces.begin("no", UNSAMPLED)
            kept_out.end()
            assert not kept_out.recording and kept_out.context.trace_id == CLIENT.trace_id
            assert not kept_out.context.sampled
        async with tracing(collecting.url, "traceidratio", 0.0) as traces:
            assert not traces.begin("no", CLIENT).recording
        async with tracing(collecting.url, "always_on") as traces:
            assert traces.begin("yes", UNSAMPLED).recording
    assert collecting.spans == []


async def test_a_collector_that_is_away_costs_spans_and_nothing_else(caplog):
    with structlog.testing.capture_logs() as lines, caplog.at_level(logging.WARNING):
        async with tracing(f"http://127.0.0.1:{free_port()}") as traces:
            for _ in range(3):
                traces.begin("lost", CLIENT).end()
        # The end of the block waited no longer than it may; what the exporter does then goes nowhere.
    assert traces.sent == 0
    assert len([record for record in caplog.records if "opentelemetry" in record.name]) <= 1
    assert all(line["event"].startswith("tracing.") for line in lines)


async def test_one_that_refuses_is_told_once_and_so_is_its_return():
    exporter = Gated()
    exporter.goes_on.set()
    exporter.result = SpanExportResult.FAILURE
    queue = SpanQueue(exporter, batch_max=1, every_s=0.01)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    tracer = provider.get_tracer("t")

    def until(count) -> None:
        while count() < 3:
            tracer.start_span("x").end()

    with structlog.testing.capture_logs() as lines:
        until(lambda: queue.lost)
        exporter.result = SpanExportResult.SUCCESS
        until(lambda: queue.sent)
        await queue.close()
    assert [line["event"] for line in lines] == ["tracing.collector_away", "tracing.collector_back"]


async def test_the_queue_is_bounded():
    exporter = Gated()
    queue = SpanQueue(exporter, held_max=10, batch_max=4, every_s=600)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    tracer = provider.get_tracer("t")
    for _ in range(4):
        tracer.start_span("x").end()
    exporter.begun.wait()  # one batch is under way, and takes its time
    for _ in range(25):
        tracer.start_span("x").end()
    assert queue.lost == 15
    await queue.close(within_s=0.05)  # what it waits for is not over, and it does not wait for that


def test_without_tracing_a_context_is_passed_on_as_it_came():
    with NO_TRACING.begin("x", CLIENT) as span:
        assert span.context is CLIENT and not span.recording
    assert NO_TRACING.begin("x", None).context != NO_TRACING.begin("x", None).context
