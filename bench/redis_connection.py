"""CPU time per command of kdcube's connection to Valkey beside redis-py, at 64 commands in flight."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.asyncio
from bench.alone import run_alone
from bench.report import Bench, Effort, Section, Spread, Table, digits, spread
from bench.stores import running_valkey

from kdcube.redis.connection import open_connection

IN_FLIGHT = 64
Call = Callable[..., Awaitable[object]]
COMMANDS: dict[str, tuple[object, ...]] = {
    "PING": ("PING",),
    "SET 100 B": ("SET", "bench:key", b"x" * 100),
    "GET 100 B": ("GET", "bench:key"),
    "EVAL": ("EVAL", "return redis.call('incr', KEYS[1])", 1, "bench:counter"),
    "XADD 400 B": ("XADD", "bench:stream", "MAXLEN", "~", 1000, "*", "e", b"x" * 400),
}


@dataclass(frozen=True, slots=True)
class Command:
    """CPU microseconds of the client for each command."""

    ours_us: Spread
    redis_py_us: Spread
    ratio: float
    """By the median round."""
    ours_per_s: float
    redis_py_per_s: float


@dataclass(frozen=True, slots=True)
class Commands:
    commands: dict[str, Command]


async def measure(effort: Effort) -> Commands:
    commands: dict[str, Command] = {}
    count = effort.of(12_800, 640)
    async with running_valkey() as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with (
            open_connection(url, name="bench") as connection,
            redis.asyncio.Redis.from_url(url, max_connections=IN_FLIGHT) as peer,
        ):
            for name, args in COMMANDS.items():
                ours, theirs = [], []
                for _ in range(effort.of(7, 1)):
                    ours.append(await _cost(connection.call, args, count))
                    theirs.append(await _cost(peer.execute_command, args, count // 10))
                ratios = [their[0] / our[0] for our, their in zip(ours, theirs, strict=True)]
                commands[name] = Command(
                    spread(each for each, _ in ours),
                    spread(each for each, _ in theirs),
                    statistics.median(ratios),
                    spread(rate for _, rate in ours).median,
                    spread(rate for _, rate in theirs).median,
                )
    return Commands(commands)


async def _cost(call: Call, args: tuple[object, ...], commands: int) -> tuple[float, float]:
    """(CPU microseconds per command, commands per second)."""

    async def worker() -> None:
        for _ in range(commands // IN_FLIGHT):
            await call(*args)

    done = commands // IN_FLIGHT * IN_FLIGHT
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return cpu / done * 1e6, done / wall


def section(result: Commands) -> Section:
    return Section(
        title="The connection to Valkey",
        how=f"{IN_FLIGHT} commands in flight, rounds of ours and of redis-py in turn; CPU of the client.",
        tables=(
            Table(
                ("command", "ours, µs", "redis-py, µs", "ratio", "ours, /s", "redis-py, /s"),
                [
                    [
                        name,
                        str(one.ours_us),
                        str(one.redis_py_us),
                        digits(one.ratio),
                        digits(one.ours_per_s),
                        digits(one.redis_py_per_s),
                    ]
                    for name, one in result.commands.items()
                ],
            ),
        ),
    )


BENCH = Bench("redis_connection", Commands, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
