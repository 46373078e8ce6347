"""How long ``kdcube up`` takes until all is ready: in a new home, and again in the same one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.alone import run_alone
from bench.cpu import process_cpu_s, tree
from bench.report import Bench, Effort, Section, Spread, Table, Target, spread
from bench.system import environment, kdcube

from kdcube.local.state import read_state


@dataclass(frozen=True, slots=True)
class Startup:
    new_home_s: Spread
    again_s: Spread
    new_home_cpu_s: Spread
    again_cpu_s: Spread
    """Of all processes, those included that only prepare."""


async def measure(effort: Effort) -> Startup:
    new, again = [], []
    new_cpu, again_cpu = [], []
    for _ in range(effort.of(3, 1)):
        with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
            env = environment(Path(folder))
            for figures, cpu in ((new, new_cpu), (again, again_cpu)):
                began = time.perf_counter()
                await asyncio.to_thread(kdcube, env, "up", "--detach")
                figures.append(time.perf_counter() - began)
                cpu.append(_used_s(Path(env["KDCUBE_HOME"])))
                await asyncio.to_thread(kdcube, env, "down")
    return Startup(spread(new), spread(again), spread(new_cpu), spread(again_cpu))


def _used_s(home: Path) -> float:
    state = read_state(home / "state.json")
    assert state is not None
    return sum(map(process_cpu_s, tree(state.supervisor.pid)))


def section(result: Startup) -> Section:
    return Section(
        title="Start-up",
        how=(
            "`kdcube up --detach` until it returns: two ingress processes, proc with its bundle host, the metrics "
            "service, Valkey and PostgreSQL all answer. A new home includes making the database. Wall time, files in "
            "the cache of the disk."
        ),
        tables=(
            Table(
                ("", "seconds", "of CPU"),
                [
                    ["new home", str(result.new_home_s), str(result.new_home_cpu_s)],
                    ["again", str(result.again_s), str(result.again_cpu_s)],
                ],
            ),
        ),
        targets=(Target("`kdcube up` in a new home", 4, result.new_home_s.median, "s"),),
    )


BENCH = Bench("startup", Startup, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
