"""How soon a user sees something: POST to the first event, and what a turn takes beyond its bundle's own time.

Idle: one user, a pause between turns. Half load: an open loop with random arrivals at half the rate that a closed loop
reaches just before; times count from the moment at which a message was due, so that a stall is not hidden.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.alone import run_alone
from bench.client import Kind, Tally, Turn, User, open_users
from bench.report import Bench, Effort, Quantiles, Section, Spread, Table, Target, digits, quantiles, spread
from bench.system import running_system
from bench.turns import USERS, closed_loop

KIND = Kind(20)
OPEN_USERS = 256
STEPS: dict[str, Callable[[Turn], float]] = {
    "202": lambda turn: turn.accepted_s,
    "first event (chat_start)": lambda turn: turn.first_event_s,
    "first delta": lambda turn: turn.first_delta_s,
    "end of the turn": lambda turn: turn.whole_s,
    "added to the bundle's own time": lambda turn: turn.whole_s - turn.own_s,
}


@dataclass(frozen=True, slots=True)
class Step:
    """Milliseconds since the POST, over blocks of turns."""

    p50_ms: Spread
    p99_ms: Spread


@dataclass(frozen=True, slots=True)
class Situation:
    turns_per_s: float
    turns: int
    steps: dict[str, Step]


@dataclass(frozen=True, slots=True)
class Latency:
    maximum_turns_per_s: float
    idle: Situation
    half_load: Situation
    sync: Quantiles
    """Of writing 8 KB to a file and waiting for the disk: what a commit takes at least. Measured in the same run."""


async def measure(effort: Effort) -> Latency:
    blocks = effort.of(3, 1)
    with running_system() as system:
        users = await open_users(system.ingress, effort.of(OPEN_USERS, USERS))
        tally = Tally()
        await closed_loop(users[:USERS], KIND, effort.of(3.0, 0.5), tally)  # warm
        gc.freeze()
        idle = [await _paced(users[0], effort.of(250, 15)) for _ in range(blocks)]
        syncs = await asyncio.to_thread(_syncs, system.home, effort.of(300, 20))
        tally = Tally()
        began = time.monotonic()
        await closed_loop(users[:USERS], KIND, effort.of(5.0, 1.0), tally)
        maximum = len(tally.turns) / (time.monotonic() - began)
        half = [await _open_loop(users, maximum / 2, effort.of(6.0, 1.0)) for _ in range(blocks)]
        for user in users:
            user.close()
    return Latency(maximum, _situation(idle), _situation(half), syncs)


async def _paced(user: User, turns: int) -> tuple[float, list[Turn]]:
    tally = Tally()
    began = time.monotonic()
    for _ in range(turns):
        await asyncio.sleep(random.uniform(0.02, 0.04))  # noqa: S311
        await user.turn(KIND, tally)
    return time.monotonic() - began, tally.turns


async def _open_loop(users: Sequence[User], per_s: float, seconds: float) -> tuple[float, list[Turn]]:
    tally = Tally()
    free = asyncio.LifoQueue[User]()
    for user in users:
        free.put_nowait(user)
    tasks: list[asyncio.Task[None]] = []

    async def one(due: float) -> None:
        user = await free.get()
        await user.turn(KIND, tally, due)
        free.put_nowait(user)

    began = due = time.monotonic()
    while due < began + seconds:
        due += random.expovariate(per_s)
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return time.monotonic() - began, tally.turns


def _syncs(folder: Path, count: int) -> Quantiles:
    times: list[float] = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(8192))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
            time.sleep(0.003)
    return quantiles(times)


def _situation(blocks: Sequence[tuple[float, list[Turn]]]) -> Situation:
    turns = sum(len(block) for _, block in blocks)
    steps: dict[str, Step] = {}
    for name, of in STEPS.items():
        cuts: list[Quantiles] = [quantiles([of(turn) for turn in block]) for _, block in blocks]
        steps[name] = Step(spread(cut.p50_ms for cut in cuts), spread(cut.p99_ms for cut in cuts))
    return Situation(turns / sum(seconds for seconds, _ in blocks), turns, steps)


def section(result: Latency) -> Section:
    first = "first event (chat_start)"
    idle, half = result.idle.steps, result.half_load.steps
    return Section(
        title="Latency",
        how=(
            f"Turns of 20 deltas. Idle: one user, 20 to 40 ms between turns, {result.idle.turns} turns. Half load: "
            f"random "
            f"arrivals at {result.half_load.turns_per_s:.0f} turns/s, half of the {result.maximum_turns_per_s:.0f} "
            f"that a "
            f"closed loop reached in the same run, {result.half_load.turns} turns, times from the moment at which "
            f"the message "
            "was due. Milliseconds from the POST; the median block of turns, and the range of blocks. Two commits "
            "that wait "
            "for the disk lie before the first event (admitted, started) and three before the end; on this disk 8 KB "
            "take "
            f"{digits(result.sync.p50_ms)} ms (p50) and {digits(result.sync.p99_ms)} ms (p99) to arrive."
        ),
        tables=(
            Table(
                ("", "idle p50", "idle p99", "half load p50", "half load p99"),
                [
                    [
                        name,
                        *map(str, (idle[name].p50_ms, idle[name].p99_ms, half[name].p50_ms, half[name].p99_ms)),
                    ]
                    for name in STEPS
                ],
            ),
        ),
        targets=(
            Target("first event, idle, p50", 5, idle[first].p50_ms.median, "ms"),
            Target("first event, idle, p99", 15, idle[first].p99_ms.median, "ms"),
        ),
    )


BENCH = Bench("latency", Latency, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
