"""What every process measures of itself and of what it depends on."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdcube.breaker import Breaker, State
from kdcube.redis.connection import Connection
from kdcube.telemetry.instruments import Instruments

if TYPE_CHECKING:  # the metrics service has no PostgreSQL, and its image no driver
    from kdcube.postgres.database import Database

SAMPLE_S = 0.5
"""Between two looks at the event loop; Valkey is asked at every second one."""

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def watch_process(instruments: Instruments) -> None:
    """CPU time and memory of this process."""
    instruments.counted("process_cpu_seconds", time.process_time)
    instruments.gauge("process_memory_bytes", _resident_bytes)


def watch_stores(instruments: Instruments, database: Database, connection: Connection) -> None:
    """The pools, the breakers, and how long PostgreSQL takes to answer."""
    for name in ("size", "idle", "max", "waiting"):
        instruments.gauge(f"postgres_pool_{name}", lambda name=name: database.pool_figures()[name])
    database.observe = instruments.histogram("postgres_call_seconds").observe
    instruments.gauge("valkey_connected", lambda: int(connection.connected))
    watch_breaker(instruments, "postgres", database.breaker)
    watch_breaker(instruments, "valkey", connection.breaker)


def watch_breaker(instruments: Instruments, dependency: str, breaker: Breaker) -> None:
    instruments.gauge("breaker_open", lambda: int(breaker.state is not State.CLOSED), dependency=dependency)
    instruments.counted("breaker_opened", lambda: breaker.times_opened, dependency=dependency)


@asynccontextmanager
async def sampling(instruments: Instruments, connection: Connection) -> AsyncGenerator[None]:
    """Looks at the event loop and at Valkey until left."""
    task = asyncio.create_task(_sample(instruments, connection), name="sampling")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _sample(instruments: Instruments, connection: Connection) -> None:
    lag, pings = instruments.histogram("loop_lag_seconds"), instruments.histogram("valkey_ping_seconds")
    under_way: asyncio.Future[object] | None = None

    def answered(ping: asyncio.Future[object], sent: float) -> None:
        if not ping.cancelled() and ping.exception() is None:
            pings.observe(time.monotonic() - sent)

    for number in itertools.count():
        due = time.monotonic() + SAMPLE_S
        await asyncio.sleep(SAMPLE_S)
        lag.observe(max(0.0, time.monotonic() - due))
        if number % 2 and (under_way is None or under_way.done()):
            under_way = connection.call("PING")
            under_way.add_done_callback(partial(answered, sent=time.monotonic()))


def _resident_bytes() -> float:
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
