"""Operations through proc, beside a bare Starlette route that does the same."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.alone import run_alone
from bench.cpu import CpuMeter
from bench.report import Bench, Effort, Section, Spread, Table, spread
from bench.system import running_system

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.process import Program
from kdcube.local.valkey import STOP_SIGNAL

OURS, BARE = "an operation", "a bare Starlette route"
CONNECTIONS = 16
_PLACE = "/integrations/bundles/bench/main/bench@1.0.0/operations/add"
_BODY = json.dumps({"data": list(range(20))}).encode()
_SERVER = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def add(request):
    return JSONResponse({"add": sum((await request.json())["data"])})

uvicorn.run(Starlette(routes=[Route("/add", add, methods=["POST"])]), port=int(sys.argv[1]), loop="uvloop",
            http="httptools", log_level="error")
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one subject: calls a second, and CPU microseconds a call by component."""

    per_s: Spread
    cpu_us: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class Operations:
    subjects: dict[str, Figures]


async def measure(effort: Effort) -> Operations:
    rounds: dict[str, list[tuple[float, dict[str, float]]]] = {OURS: [], BARE: []}
    calls = effort.of(8_000, 400)
    with running_system() as system:
        async with _bare() as (bare_port, bare_pid):
            host, port = system.ingress[0]
            with urllib.request.urlopen(f"http://{host}:{port}/profile") as answer:  # noqa: ASYNC210
                session = json.load(answer)["session_id"]
            ours = _request(_PLACE, {"User-Session-ID": session})
            meters = {OURS: system.meter(), BARE: CpuMeter({"server": [bare_pid]})}
            for number in range(effort.of(6, 1)):
                for name, at, request in ((OURS, port + 10, ours), (BARE, bare_port, _request("/add", {}))):
                    measured = await _drive(meters[name], at, request, calls)
                    if number or effort.quick:  # the first one warms up
                        rounds[name].append(measured)
    return Operations(
        {
            name: Figures(
                spread(per_s for per_s, _ in measured),
                {part: spread(one[part] for _, one in measured) for part in measured[0][1]},
            )
            for name, measured in rounds.items()
        }
    )


def _request(path: str, headers: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{fields}Content-Length: {len(_BODY)}\r\n\r\n"
    return head.encode() + _BODY


async def _drive(meter: CpuMeter, port: int, request: bytes, calls: int) -> tuple[float, dict[str, float]]:
    async def connection(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            assert b"190" in await reader.readexactly(length)
        writer.close()

    before, began = meter.read(), time.perf_counter()
    await asyncio.gather(*(connection(calls // CONNECTIONS) for _ in range(CONNECTIONS)))
    took, after = time.perf_counter() - began, meter.read()
    done = calls // CONNECTIONS * CONNECTIONS
    shown = ("proc", "bundle hosts", "valkey", "postgres", "server")
    used = {name: (after.used_s[name] - before.used_s[name]) / done * 1e6 for name in after.used_s if name in shown}
    return done / took, used


@asynccontextmanager
async def _bare() -> AsyncGenerator[tuple[int, int]]:
    port = free_port()
    server = process.start(
        Program((sys.executable, "-c", _SERVER, str(port)), {"PATH": str(Path(sys.executable).parent)})
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield port, server.pid
    finally:
        process.stop(server, STOP_SIGNAL, grace_s=10)


def section(result: Operations) -> Section:
    rows = [
        [name, str(figures.per_s), ", ".join(f"{part} {cost}" for part, cost in figures.cpu_us.items())]
        for name, figures in result.subjects.items()
    ]
    return Section(
        title="Operations",
        how=(
            f"An operation that adds up twenty numbers, called over {CONNECTIONS} connections that are kept, by an "
            "anonymous user whose session is proven each time: proc looks up the operation, checks who calls, takes a "
            "place, and passes the data to the bundle's process and the answer back. Beside it a Starlette route "
            "without any of that, in the same uvicorn. The load generator has a share of the same two cores."
        ),
        tables=(Table(("", "calls/s", "CPU µs a call"), rows),),
    )


BENCH = Bench("operations", Operations, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
