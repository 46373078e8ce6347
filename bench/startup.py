"""How long ``kdcube up`` takes until all is ready: in a new home, and again in the same one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.alone import run_alone
from bench.report import Bench, Effort, Section, Spread, Table, Target, spread
from bench.system import environment, kdcube


@dataclass(frozen=True, slots=True)
class Startup:
    new_home_s: Spread
    again_s: Spread


async def measure(effort: Effort) -> Startup:
    new, again = [], []
    for _ in range(effort.of(3, 1)):
        with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
            env = environment(Path(folder))
            for figures in (new, again):
                began = time.perf_counter()
                await asyncio.to_thread(kdcube, env, "up", "--detach")
                figures.append(time.perf_counter() - began)
                await asyncio.to_thread(kdcube, env, "down")
    return Startup(spread(new), spread(again))


def section(result: Startup) -> Section:
    return Section(
        title="Start-up",
        how=(
            "`kdcube up --detach` until it returns: two ingress processes, proc with its bundle host, Valkey and "
            "PostgreSQL "
            "all answer. A new home includes making the database. Wall time, files in the cache of the disk."
        ),
        tables=(Table(("seconds", ""), [["new home", str(result.new_home_s)], ["again", str(result.again_s)]]),),
        targets=(Target("`kdcube up` in a new home", 4, result.new_home_s.median, "s"),),
    )


BENCH = Bench("startup", Startup, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
