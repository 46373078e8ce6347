"""What each fault costs: turns that are lost or doubled, and the time until the system serves as before.

    python -m bench.recovery --rounds 5

It starts a system of its own, holds turns in mid-answer, lets others wait behind them, and keeps hands at work that
send, steer, cancel and read at random; then it makes one part fail and measures. *Recovered* is when a message that
was sent at the moment of the fault has been answered to its end, and every turn that ran at that moment has shown its
last event to its reader. The time counts from the fault; for a store, which somebody has to bring back, from the moment
when it takes connections again. Lost and doubled turns are those of all users, as the history checker of the chaos
tests finds them. Prints a table, and JSON with ``--json FILE``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.machine import this_machine
from bench.markdown import table_text
from bench.report import Table, digits, spread
from tests.chaos.conftest import BUNDLE, running
from tests.chaos.hands import crowd
from tests.chaos.history import ENDED, History
from tests.chaos.scene import Scene
from tests.e2e.client import Client, Gate
from tests.e2e.conftest import USERS, Stack

from kdcube.local.valkey import answers
from kdcube.protocol.ids import new_id

WORDS = "one two three four five"
HELD = 4
"""Turns in mid-answer when the fault comes; as many wait behind them."""
USERS_AT_WORK = 2
PAUSE_S = 2.0
"""At most so long, at random, the hands work before the fault comes."""
PATIENCE_S = 180.0
VALKEY_OFFSET = 90
"""Of the port of the embedded Valkey from the first port."""
_POLL_S = 0.01


Strike = Callable[[Stack], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` makes it happen and returns the moment (monotonic, in seconds) from which recovery counts."""

    name: str
    bound_s: float | None
    """What is promised; None: how long it takes depends on how fast the machine starts programs."""
    strike: Strike


@dataclass(slots=True)
class Outcome:
    recovered_s: list[float] = field(default_factory=list[float])
    accepted: int = 0
    lost: int = 0
    doubled: int = 0
    interrupted: int = 0
    violations: list[str] = field(default_factory=list[str])
    """All that the history checker found: losses and doublings are among it."""

    def add(self, history: History) -> None:
        stored = history.stored
        turns = [send.task_id for send in history.sends if send.task_id is not None]
        self.accepted += len(turns)
        self.lost += sum(turn not in stored or stored[turn]["state"] not in (*ENDED, "applied") for turn in turns)
        begun = Counter(run.turn for run in history.ran if run.begins)
        self.doubled += sum(times > 1 + (turn in history.repeatable) for turn, times in begun.items())
        self.interrupted += sum(turn["state"] == "interrupted" for turn in stored.values())
        self.violations += history.violations()


# --- faults


def killed(*instances: str) -> Strike:
    async def strike(stack: Stack) -> float:
        for instance in instances:
            stack.signal(instance, signal.SIGKILL)
        return time.monotonic()

    return strike


async def hosts_killed(stack: Stack) -> float:
    pids = await asyncio.to_thread(stack.host_pids, BUNDLE)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def valkey_killed() -> Strike:
    """It comes back at once, and empty."""

    async def back(stack: Stack, _: int) -> bool:
        return await asyncio.to_thread(answers, stack.port + VALKEY_OFFSET)

    return store_killed("valkey", back)


def postgres_killed() -> Strike:
    async def back(stack: Stack, pid: int) -> bool:
        words = [word for lock in stack.home.glob("postgres/**/postmaster.pid") for word in lock.read_text().split()]
        return str(pid) in words and "ready" in words

    return store_killed("postgres", back)


def store_killed(instance: str, back: Callable[[Stack, int], Awaitable[bool]]) -> Strike:
    async def strike(stack: Stack) -> float:
        dead = stack.signal(instance, signal.SIGKILL)
        while (pid := stack.pids.get(instance, dead)) == dead or not await back(stack, pid):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return time.monotonic()

    return strike


FAULTS = (
    Fault("bundle host killed", 1.0, hosts_killed),
    Fault("one ingress of two killed", 2.0, killed("ingress-0")),
    Fault("both ingress killed", None, killed("ingress-0", "ingress-1")),
    Fault("the only proc killed", 20.0, killed("proc-0")),
    Fault("Valkey killed, comes back empty", 10.0, valkey_killed()),
    Fault("PostgreSQL killed, comes back", 5.0, postgres_killed()),
    Fault("everything killed", None, killed("valkey", "postgres", "ingress-0", "ingress-1", "proc-0")),
)

# --- measuring


async def measure(rounds: int, seed: int, faults: Sequence[Fault]) -> dict[str, Outcome]:
    """Round by round all faults in a random order: a service that dies often is started again more slowly."""
    choose = random.Random(seed)  # noqa: S311 - no secret
    outcomes = {fault.name: Outcome() for fault in faults}
    with tempfile.TemporaryDirectory(prefix="kdcube-recovery-") as folder, running(Path(folder), {}) as stack:
        tokens = iter([token for token in USERS if token.removeprefix("token-").isdigit()])
        for number in range(rounds):
            for fault in choose.sample(faults, len(faults)):
                outcome = outcomes[fault.name]
                async with users(stack, Path(folder), tokens) as scenes:
                    await one_round(fault, scenes, choose, outcome)
                print(f"round {number + 1}: {fault.name}: {outcome.recovered_s[-1]:.2f} s", flush=True)
    return outcomes


@asynccontextmanager
async def users(stack: Stack, folder: Path, tokens: Iterator[str]) -> AsyncGenerator[list[Scene]]:
    await asyncio.to_thread(stack.wait_back)
    clients = [Client(stack.ingress, next(tokens)) for _ in range(1 + USERS_AT_WORK)]
    scenes = [Scene(stack, client, folder, PATIENCE_S) for client in clients]
    try:
        yield scenes
    finally:
        for scene in scenes:
            await scene.close()
            await scene.client.http.aclose()


async def one_round(fault: Fault, scenes: list[Scene], choose: random.Random, outcome: Outcome) -> None:
    scene, *others = scenes
    stack, conversation = scene.stack, new_id()
    gate = Gate(scene.record.with_name(f"gate-{conversation}"))
    for each in scenes:
        await each.watch()
    held = [
        await scene.sent(WORDS, f"{conversation}-{n}", at=n, trial={"hold": str(gate), "hold_after": 3})
        for n in range(HELD)
    ]
    for number, turn in enumerate(held):
        await scene.follow(turn, at=number, deltas=3)
    for number in range(HELD):
        await scene.sent(f"behind {number}", f"{conversation}-{number}")
    async with crowd(others, f"{conversation}-crowd", choose, crashes=0.0):
        await asyncio.sleep(choose.uniform(0.0, PAUSE_S))
        striking = asyncio.create_task(fault.strike(stack))
        new = asyncio.create_task(answered(scene, f"{conversation}-new"))
        since = await striking
        gate.open()
        await asyncio.gather(new, *(scene.read(turn, at=number) for number, turn in enumerate(held)))
        outcome.recovered_s.append(time.monotonic() - since)
    for each in scenes:
        await each.collected()
        outcome.add(each.history)


async def answered(scene: Scene, conversation: str) -> None:
    turn = await scene.sent("new", conversation)
    await scene.follow(turn)
    await scene.read(turn)


# --- the report


def table(faults: Sequence[Fault], outcomes: dict[str, Outcome]) -> Table:
    rows = [
        (
            fault.name,
            f"{len(outcome.recovered_s)}",
            f"{outcome.accepted}",
            f"{outcome.lost}",
            f"{outcome.doubled}",
            f"{outcome.interrupted}",
            str(spread(outcome.recovered_s)),
            digits(max(outcome.recovered_s)),
            "" if fault.bound_s is None else digits(fault.bound_s),
        )
        for fault in faults
        if (outcome := outcomes[fault.name]).recovered_s
    ]
    columns = ("fault", "rounds", "turns", "lost", "doubled", "interrupted", "recovered after, s", "worst", "bound")
    return Table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], metavar="FAULT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if arguments.only is None or fault.name in arguments.only]
    machine = this_machine()
    outcomes = asyncio.run(measure(arguments.rounds, arguments.seed, faults))
    print(f"\n{table_text(table(faults, outcomes))}")
    violations = [line for outcome in outcomes.values() for line in outcome.violations]
    if violations:
        print("\nthe histories break promises:", *violations, sep="\n")
    if arguments.json is not None:
        report = {"machine": asdict(machine), "seed": arguments.seed}
        report["faults"] = {name: asdict(outcome) for name, outcome in outcomes.items()}
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
