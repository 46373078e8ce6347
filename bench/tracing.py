"""What spans cost at full load: systems that record none, one in ten traces, and all, by turns."""

from __future__ import annotations

import gc
import gzip
import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.alone import run_alone
from bench.client import Kind, Tally, open_users
from bench.report import Bench, Effort, Section, Spread, Table, digits, percents, spread
from bench.system import running_system
from bench.turns import USERS, turn_costs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

COMPONENTS = ("ingress", "proc")
KIND = Kind(20)
NONE, TENTH, ALL = "none", "one in ten", "all"
_SAMPLERS: Mapping[str, Mapping[str, str]] = {
    TENTH: {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
    ALL: {},
}


@dataclass(frozen=True, slots=True)
class Tracing:
    cpu_us: dict[str, dict[str, Spread]]
    """CPU microseconds a turn by component, for each way to sample."""
    added: dict[str, dict[str, Spread]]
    """What is added to the CPU time without tracing, as a share of it, in rounds that are neighbours."""
    spans_a_turn: dict[str, float]
    """That reached the collector."""


async def measure(effort: Effort) -> Tracing:
    costs: dict[str, list[Mapping[str, float]]] = {way: [] for way in (NONE, *_SAMPLERS)}
    with ExitStack() as collecting, ExitStack() as running:  # a system that stops sends what still waits
        systems = {NONE: running.enter_context(running_system())}
        bodies: dict[str, list[bytes]] = {}
        for way, sampler in _SAMPLERS.items():
            url, bodies[way] = collecting.enter_context(_collector())
            settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **sampler}
            systems[way] = running.enter_context(running_system(settings=settings))
        users = {way: await open_users(system.ingress, USERS) for way, system in systems.items()}
        tallies = {way: Tally() for way in systems}
        for way, system in systems.items():  # warm
            await turn_costs(users[way], KIND, effort.of(3.0, 0.5), system.meter(), tallies[way])
        gc.freeze()
        for number in range(effort.of(9, 1)):
            for way in _turned(list(systems), number):
                meter = systems[way].meter()
                costs[way].append(await turn_costs(users[way], KIND, effort.of(5.0, 0.5), meter, tallies[way]))
        for each in users.values():
            for user in each:
                user.close()
    spans = {way: sum(map(_spans, bodies[way])) / len(tallies[way].turns) for way in _SAMPLERS}
    if not all(spans.values()):
        raise NothingTraced(f"spans a turn that came: {spans}")
    return Tracing(
        {way: {part: spread(one[part] for one in rounds) for part in COMPONENTS} for way, rounds in costs.items()},
        {
            way: {
                part: spread(one[part] / bare[part] - 1 for one, bare in zip(costs[way], costs[NONE], strict=True))
                for part in COMPONENTS
            }
            for way in _SAMPLERS
        },
        spans,
    )


class NothingTraced(RuntimeError):
    """The collector has got nothing: what was measured is not what it says."""


def _turned(ways: list[str], by: int) -> list[str]:
    """Each is the first, and the last, as often as the others."""
    by %= len(ways)
    return ways[by:] + ways[:by]


@contextmanager
def _collector() -> Generator[tuple[str, list[bytes]]]:
    """Its address, and the requests that came."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


def _spans(body: bytes) -> int:
    request = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def section(result: Tracing) -> Section:
    rows = [
        [
            way,
            digits(result.spans_a_turn[way]) if way != NONE else "0",
            *(str(result.cpu_us[way][part]) for part in COMPONENTS),
            *(percents(result.added[way][part]) if way != NONE else "" for part in COMPONENTS),
        ]
        for way in result.cpu_us
    ]
    heads = ("traces recorded", "spans a turn", "ingress, CPU µs a turn", "proc", "added to ingress", "to proc")
    return Section(
        title="Tracing",
        how=(
            f"{USERS} users in a closed loop, turns of {KIND.deltas} deltas, at full load, against three systems by "
            "turns: one without `OTEL_EXPORTER_OTLP_ENDPOINT`, one that samples a tenth of its traces, and one that "
            "records all and sends them to a collector on the same machine. What it adds is the median of the "
            "differences of neighbouring rounds, with their range. Spans that were lost because the queue was full "
            "are missing among those of a turn."
        ),
        tables=(Table(heads, rows),),
    )


BENCH = Bench("tracing", Tracing, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
