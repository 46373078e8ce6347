"""Where the time of a turn goes inside ingress and proc: samples of py-spy under the load of ``bench.turns``.

py-spy is no dependency: without it on the PATH this bench is left out. It sees what holds the interpreter's lock; what
the event loop does without it (waiting, reading from sockets) is not in the shares.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.alone import run_alone
from bench.client import Kind, Tally, open_users
from bench.report import Bench, Effort, Section, Table
from bench.system import running_system
from bench.turns import USERS, closed_loop

PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "ingress": (
        ("kdcube/ingress/streams/", "streams: follow logs and feeds, frame events"),
        ("kdcube/gateway/identity/", "identity"),
        ("kdcube/gateway/edge.py", "request scope, headers, logging context"),
        ("kdcube/gateway/exchange.py", "request scope, headers, logging context"),
        ("structlog/", "request scope, headers, logging context"),
        ("kdcube/ingress/", "messages: read, compose, answer"),
        ("uvicorn/", "uvicorn: HTTP, writing to clients"),
        ("starlette/", "Starlette: routing, requests, responses"),
        ("kdcube/redis/", "Valkey: commands, replies, channels"),
        ("kdcube/postgres/", "PostgreSQL: grouped commits, rows"),
        ("asyncpg/", "PostgreSQL: grouped commits, rows"),
    ),
    "proc": (
        ("kdcube/sdk/wire.py", "bundle hosts: frames and their sockets"),
        ("kdcube/proc/bundles/", "bundle hosts: frames and their sockets"),
        ("kdcube/proc/log_writer.py", "events: encode, fold, append"),
        ("kdcube/protocol/", "events: encode, fold, append"),
        ("kdcube/proc/attempt.py", "course of a turn: claim, start, end, tasks"),
        ("kdcube/proc/worker.py", "course of a turn: claim, start, end, tasks"),
        ("kdcube/proc/lease.py", "course of a turn: claim, start, end, tasks"),
        ("structlog/", "logging context"),
        ("kdcube/redis/", "Valkey: commands, replies, channels"),
        ("kdcube/postgres/", "PostgreSQL: grouped commits, rows"),
        ("asyncpg/", "PostgreSQL: grouped commits, rows"),
        ("kdcube/proc/", "maintenance, leases, beats"),
    ),
}
"""A sample belongs to the first of these that its innermost frame of any of them matches."""
_LOOP = "event loop and what it calls itself"


@dataclass(frozen=True, slots=True)
class Profile:
    shares: dict[str, dict[str, float]]
    """By component and part; those of a component are 1 in all."""
    samples: dict[str, int]


async def measure(effort: Effort) -> Profile:
    counted: dict[str, Counter[str]] = {}
    seconds = effort.of(8, 2)
    with running_system() as system:
        users = await open_users(system.ingress, USERS)
        pids = system.meter().processes
        load = asyncio.create_task(closed_loop(users, Kind(20), 2 * seconds + 8, Tally()))
        await asyncio.sleep(1)
        for component in PARTS:
            stacks = await asyncio.to_thread(_sample, pids[component][0], seconds)
            counted[component] = Counter(_part(component, stack) for stack in stacks)
        await load
        for user in users:
            user.close()
    totals = {component: sum(parts.values()) for component, parts in counted.items()}
    shares = {
        component: {part: count / totals[component] for part, count in parts.most_common()}
        for component, parts in counted.items()
    }
    return Profile(shares, totals)


def _sample(pid: int, seconds: int) -> Sequence[str]:
    """One line of frames, outermost first, for each sample."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stacks"
        subprocess.run(
            [
                *("py-spy", "record", "--gil", "--rate", "400", "--duration", str(seconds)),
                *("--format", "raw", "--output", str(path), "--pid", str(pid)),
            ],
            check=True,
            capture_output=True,
        )
        stacks: list[str] = []
        for line in path.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            stacks += [stack] * int(count)
        return stacks


def _part(component: str, stack: str) -> str:
    for frame in reversed(stack.split(";")):
        for path, part in PARTS[component]:
            if path in frame:
                return part
    return _LOOP


def section(result: Profile) -> Section:
    return Section(
        title="Where the time of a turn goes",
        how=(
            "Samples by py-spy of one ingress process and of proc under a closed loop of turns of 20 deltas "
            f"({', '.join(f'{count:,} of {name}' for name, count in result.samples.items())}), of the time that holds "
            "the interpreter's lock. A sample counts for the part that its innermost frame belongs to, callees of the "
            "standard library included."
        ),
        tables=tuple(
            Table((component, "share"), [[part, f"{share * 100:.0f} %"] for part, share in parts.items()])
            for component, parts in result.shares.items()
        ),
    )


BENCH = Bench("profile", Profile, measure, section, needs="py-spy")

if __name__ == "__main__":
    run_alone(BENCH)
