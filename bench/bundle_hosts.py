"""CPU time of proc and of a bundle host for each delta and for each short turn, through one host.

python bench/bundle_hosts.py
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import uvloop

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.proc.bundles.host import RunningTurn
from kdcube.proc.bundles.jobs import Completed, Delta, Emit, TurnJob
from kdcube.proc.bundles.pool import HostPool, open_host_pool
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnEnvelope, UserType

CREDIT_EVERY_BYTES = 16_384


class Sink:
    """Acknowledges text in batches, as the log does."""

    def __init__(self) -> None:
        self.running: RunningTurn | None = None
        self.events = 0
        self._text_bytes = 0

    def emit(self, frame: Emit) -> None:
        self.events += 1
        if isinstance(frame, Delta):
            self._text_bytes += frame.n_bytes
            if self._text_bytes >= CREDIT_EVERY_BYTES and self.running is not None:
                self.running.credit(self._text_bytes)
                self._text_bytes = 0

    async def apply(self, steer_ids: list[str]) -> set[str]:
        return set(steer_ids)


async def turn(pool: HostPool, orders: dict[str, Any]) -> int:
    """Runs a turn of the echo bundle; how many events it said."""
    envelope = TurnEnvelope(
        turn_id=new_id(),
        client_turn_id="bench",
        tenant="bench",
        project="bench",
        user_id="bench",
        user_type=UserType.REGISTERED,
        session_id="bench",
        request_id="bench",
        conversation_id="bench",
        bundle_id="echo@1.0.0",
        text="",
        content_hash="",
        payload={"echo": orders},
    )
    sink = Sink()
    sink.running = await pool.start(TurnJob(envelope, attempt=1), sink)
    outcome = await sink.running.outcome
    assert outcome == Completed(), outcome
    return sink.events


def cpu_s(pid: int) -> float:
    """CPU time of a process, in steps of a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(name: str, host: int, units: int, work: Callable[[], Awaitable[None]]) -> None:
    """Prints the CPU time for each unit, in microseconds, on both sides of the wire."""
    proc_before, host_before, began = time.process_time(), cpu_s(host), time.perf_counter()
    await work()
    took = time.perf_counter() - began
    proc_us = (time.process_time() - proc_before) / units * 1e6
    host_us = (cpu_s(host) - host_before) / units * 1e6
    print(f"{name:24} proc {proc_us:7.2f} us   host {host_us:7.2f} us   {units / took:10,.0f}/s")


async def main() -> None:
    registry = BundleRegistry(
        bundles={"echo@1.0.0": BundleEntry(id="echo@1.0.0", path=str(resources.files("kdcube") / "echo"))}
    )
    with tempfile.TemporaryDirectory() as run_dir:
        async with open_host_pool(registry, slots=64, group_size=64, run_dir=Path(run_dir)) as pool:
            (host,) = pool.status()[0].host_pids

            async def long_turns() -> None:
                await asyncio.gather(*(turn(pool, {"deltas": 20_000, "text_bytes": 8}) for _ in range(16)))

            async def short_turns() -> None:
                async def one_after_another() -> None:
                    for _ in range(250):
                        await turn(pool, {"deltas": 20, "text_bytes": 8})

                await asyncio.gather(*(one_after_another() for _ in range(16)))

            await short_turns()  # warm
            await measure("delta", host, 16 * 20_000, long_turns)
            await measure("turn of 20 deltas", host, 16 * 250, short_turns)


if __name__ == "__main__":
    uvloop.run(main())
