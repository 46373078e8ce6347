"""CPU time of proc and of a bundle host for each delta and for each short turn, through one host."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bench.alone import run_alone
from bench.cpu import process_cpu_s
from bench.report import Bench, Effort, Section, Spread, Table, spread
from bench.turn_envelopes import envelope

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.jobs import Completed, Delta, Emit, TurnJob
from kdcube.proc.bundles.pool import HostPool, open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.turns import RunningTurn

AT_ONCE = 16
BUNDLE = "echo@1.0.0"
_CREDIT_EVERY_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Part:
    """CPU microseconds for each unit."""

    proc_us: Spread
    host_us: Spread


@dataclass(frozen=True, slots=True)
class BundleHosts:
    delta: Part
    turn: Part
    """Of 20 deltas."""


class Sink:
    """Acknowledges text in batches, as the log does."""

    def __init__(self) -> None:
        self.running: RunningTurn | None = None
        self._text_bytes = 0

    def emit(self, frame: Emit) -> None:
        if isinstance(frame, Delta):
            self._text_bytes += frame.n_bytes
            if self._text_bytes >= _CREDIT_EVERY_BYTES and self.running is not None:
                self.running.credit(self._text_bytes)
                self._text_bytes = 0

    async def apply(self, steer_ids: list[str]) -> set[str]:
        return set(steer_ids)


async def measure(effort: Effort) -> BundleHosts:
    entry = BundleEntry(id=BUNDLE, path=str(resources.files("kdcube") / "echo"))
    releases = {BUNDLE: BundleRelease(1, entry)}
    deltas, turns = effort.of(8_000, 500), effort.of(125, 10)
    by_delta, by_turn = [], []
    with tempfile.TemporaryDirectory() as run_dir:
        async with open_host_pool(releases, needed=releases, slots=64, group_size=64, run_dir=Path(run_dir)) as pool:
            (host,) = pool.status()[0].host_pids
            await _cost(pool, host, {"deltas": 20, "text_bytes": 8}, 20, 1)  # warm
            for _ in range(effort.of(5, 1)):
                by_delta.append(await _cost(pool, host, {"deltas": deltas, "text_bytes": 8}, 1, deltas))
                by_turn.append(await _cost(pool, host, {"deltas": 20, "text_bytes": 8}, turns, 1))
    return BundleHosts(*(Part(*map(spread, zip(*figures, strict=True))) for figures in (by_delta, by_turn)))


async def _cost(
    pool: HostPool, host: int, orders: dict[str, Any], turns: int, units_per_turn: int
) -> tuple[float, float]:
    """(proc, host) CPU microseconds a unit, over 16 times so many turns."""

    async def one_after_another() -> None:
        for _ in range(turns):
            sink = Sink()
            job = TurnJob(envelope(payload={"echo": orders}), attempt=1)
            sink.running = pool.seat(BUNDLE).start(job, sink)
            outcome = await sink.running.outcome
            assert outcome == Completed(), outcome

    proc_s, host_s = time.process_time(), process_cpu_s(host)
    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    units = AT_ONCE * turns * units_per_turn
    return (time.process_time() - proc_s) / units * 1e6, (process_cpu_s(host) - host_s) / units * 1e6


def section(result: BundleHosts) -> Section:
    return Section(
        title="Bundle hosts",
        how=f"Proc's side and the host's side of the socket between them, {AT_ONCE} turns at once in one host.",
        tables=(
            Table(
                ("CPU µs", "proc", "bundle host"),
                [
                    ["a delta", str(result.delta.proc_us), str(result.delta.host_us)],
                    ["a turn of 20 deltas", str(result.turn.proc_us), str(result.turn.host_us)],
                ],
            ),
        ),
    )


BENCH = Bench("bundle_hosts", BundleHosts, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
