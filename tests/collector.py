"""A collector of spans for tests: takes OTLP over HTTP as a real one does, decodes it, and keeps it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Collected:
    """A span. Ids are hexadecimal; ``service`` is who sent it."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start_ms: int
    end_ms: int
    attributes: dict[str, Any]
    failed: bool
    service: str


@dataclass
class Collector:
    """``refusing``: it answers 401 from then on."""

    url: str = ""
    spans: list[Collected] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    refusing: bool = False
    news: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        request = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        with self.news:
            self.headers.append(headers)
            for resource in request.resource_spans:
                about = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [_collected(span, about["service.name"]) for span in scope.spans]
            self.news.notify_all()

    def trace(self, trace_id: str, *names: str, within_s: float = 30.0) -> dict[str, Collected]:
        """Of a trace by name, as soon as it has these."""

        def found() -> dict[str, Collected]:
            return {span.name: span for span in self.spans if span.trace_id == trace_id}

        with self.news:
            assert self.news.wait_for(lambda: set(names) <= set(found()), within_s), (names, self.spans)
            return found()


def _collected(span: Any, service: str) -> Collected:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    return Collected(
        span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        span.start_time_unix_nano // 1_000_000, span.end_time_unix_nano // 1_000_000, values,
        span.status.code == 2, service,
    )  # fmt: skip


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens on this machine."""
    collecting = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not collecting.refusing:
                collecting.take(body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(401 if collecting.refusing else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        collecting.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collecting
        finally:
            server.shutdown()
            thread.join()
