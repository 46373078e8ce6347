"""Messages that one ingress process accepts: POST, admission in Valkey, commit of the row, 202.

Nobody claims them, so all wait in the queue. 64 connections in a closed loop, each of another user.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from bench.alone import run_alone
from bench.client import Messages
from bench.cpu import OWN, cores_used, per_unit_us
from bench.report import Bench, Effort, Section, Spread, Table, digits, quantiles, spread
from bench.stores import running_ingress

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Admissions:
    per_s: Spread
    cores: float
    cpu_us: dict[str, Spread]
    """For each admission, by component."""
    p50_ms: Spread
    p99_ms: Spread


async def measure(effort: Effort) -> Admissions:
    loop = asyncio.get_running_loop()
    rates: list[float] = []
    cpu: list[dict[str, float]] = []
    cuts: list[tuple[float, float]] = []
    cores: list[float] = []
    async with running_ingress() as ingress:
        connections = [
            (await loop.create_connection(Messages, "127.0.0.1", ingress.port))[1] for _ in range(CONNECTIONS)
        ]
        users = [User(connection, number) for number, connection in enumerate(connections)]
        await asyncio.gather(*(user.send() for user in users))
        meter = ingress.meter()
        for _ in range(effort.of(3, 1)):
            times: list[float] = []
            until = time.monotonic() + effort.of(4.0, 0.5)
            before = meter.read()
            await asyncio.gather(*(user.send_until(until, times) for user in users))
            after = meter.read()
            rates.append(len(times) / (after.at - before.at))
            cpu.append(per_unit_us(before, after, len(times)))
            cores.append(cores_used(before, after))
            cut = quantiles(times)
            cuts.append((cut.p50_ms, cut.p99_ms))
        for connection in connections:
            connection.close()
    return Admissions(
        spread(rates),
        spread(cores).median,
        {part: spread(one[part] for one in cpu) for part in cpu[0]},
        *map(spread, zip(*cuts, strict=True)),
    )


class User:
    """Sends one message after the other, each into a new conversation."""

    def __init__(self, connection: Messages, number: int) -> None:
        self._connection = connection
        self._name = f"u{number}"
        self._session = ""
        self._sent = 0

    async def send(self) -> None:
        self._sent += 1
        body = json.dumps({"message": {"text": "bench", "turn_id": f"{self._name}-{self._sent}"}})
        request = (
            f"POST /sse/chat HTTP/1.1\r\nHost: bench\r\n{self._session}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        status, answer = await self._connection.ask(request.encode())
        assert status == 202, answer
        if not self._session:
            self._session = f"User-Session-ID: {json.loads(answer)['session_id']}\r\n"

    async def send_until(self, until: float, times: list[float]) -> None:
        while (began := time.monotonic()) < until:
            await self.send()
            times.append(time.monotonic() - began)


def section(result: Admissions) -> Section:
    parts = [part for part in result.cpu_us if part != OWN]
    return Section(
        title="Admissions",
        how=(
            f"{CONNECTIONS} connections in a closed loop against one ingress process, each message into a new "
            f"conversation, "
            "no worker: POST, admission in Valkey, commit in PostgreSQL, 202. One process has one core."
        ),
        tables=(
            Table(
                ("admissions/s", "p50 ms", "p99 ms", "busy cores", *(f"{part}, CPU µs" for part in (*parts, OWN))),
                [
                    [
                        *map(str, (result.per_s, result.p50_ms, result.p99_ms)),
                        digits(result.cores),
                        *(str(result.cpu_us[part]) for part in (*parts, OWN)),
                    ]
                ],
            ),
        ),
    )


BENCH = Bench("admissions", Admissions, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
