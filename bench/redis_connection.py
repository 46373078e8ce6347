"""CPU time per command of kdcube's connection beside redis-py, at 64 commands in flight.

    python bench/redis_connection.py redis://127.0.0.1:6379/0

The server should be one that may be written to. Rounds are interleaved and the median is shown: CPU microseconds of
this process per command, which is what machines are paid for, and commands per second of wall time.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import redis.asyncio
import uvloop

from kdcube.redis.connection import open_connection

IN_FLIGHT = 64
ROUNDS = 7
Call = Callable[..., Awaitable[object]]


async def measure(call: Call, args: tuple[object, ...], commands: int) -> tuple[float, float]:
    """(CPU microseconds per command, commands per second)."""

    async def worker() -> None:
        for _ in range(commands // IN_FLIGHT):
            await call(*args)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return cpu / commands * 1e6, commands / wall


async def main(url: str) -> None:
    commands = {
        "PING": ("PING",),
        "SET 100 B": ("SET", "bench:key", b"x" * 100),
        "GET 100 B": ("GET", "bench:key"),
        "EVAL": ("EVAL", "return redis.call('incr', KEYS[1])", 1, "bench:counter"),
        "XADD 400 B": ("XADD", "bench:stream", "MAXLEN", "~", 1000, "*", "e", b"x" * 400),
    }
    async with (
        open_connection(url, name="bench") as connection,
        redis.asyncio.Redis.from_url(url, max_connections=IN_FLIGHT) as peer,
    ):
        print(f"{'command':<12}{'kdcube us':>12}{'redis-py us':>14}{'ratio':>8}{'kdcube /s':>12}{'redis-py /s':>13}")
        for label, args in commands.items():
            ours: list[tuple[float, float]] = []
            theirs: list[tuple[float, float]] = []
            for _ in range(ROUNDS):
                ours.append(await measure(connection.call, args, 12_800))
                theirs.append(await measure(peer.execute_command, args, 1_280))
            our_cpu, our_rate = (statistics.median(column) for column in zip(*ours, strict=True))
            their_cpu, their_rate = (statistics.median(column) for column in zip(*theirs, strict=True))
            print(
                f"{label:<12}{our_cpu:>12.1f}{their_cpu:>14.1f}{their_cpu / our_cpu:>8.1f}"
                f"{our_rate:>12,.0f}{their_rate:>13,.0f}"
            )
        await connection.call("DEL", "bench:key", "bench:counter", "bench:stream")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/redis_connection.py URL")
    uvloop.run(main(sys.argv[1]))
