"""Turns per second through the whole system, and the CPU time of each by component.

64 users in a closed loop against two ingress processes and one proc, the load generator beside them on the same cores.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.alone import run_alone
from bench.client import Kind, Tally, User, open_users
from bench.cpu import OWN, CpuMeter, cores_of_others, cores_used, per_unit_us
from bench.report import Bench, Chart, Effort, Section, Spread, Table, Target, digits, spread
from bench.system import running_system

from kdcube.redis.connection import Connection, open_connection

USERS = 64
KINDS = {
    "20 deltas": Kind(20),
    "200 deltas": Kind(200),
    "21 events": Kind(21, alternate=True),
    "201 events": Kind(201, alternate=True),
}
"""As bundles speak, and with neighbours that cannot be joined, so that each delta is an event."""
_SETTLE_S = 0.5
_FEED_ENTRIES = 3
"""Of each turn in the user's feed: accepted, started, ended."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of turn under load."""

    kind: str
    turns_per_s: Spread
    events_per_turn: float
    appends_per_turn: float
    """Batches in which a turn's deltas went into its log."""
    cores: float
    cores_of_others: float
    cpu_us: dict[str, Spread]
    """CPU microseconds a turn, by component."""
    system_cpu_us: Spread
    """Of all components together, without the load generator."""


@dataclass(frozen=True, slots=True)
class Turns:
    loads: list[Load]
    delta_us: dict[str, float]
    """CPU microseconds for each further delta, by component: what 200 cost more than 20, divided by 180."""
    event_us: dict[str, float]
    """The same for deltas that are all events."""
    verified: int
    """Turns whose streams were decoded and compared."""


@dataclass(frozen=True, slots=True)
class _Round:
    turns_per_s: float
    events_per_turn: float
    appends_per_turn: float
    cores: float
    cores_of_others: float
    cpu_us: dict[str, float]


async def measure(effort: Effort) -> Turns:
    rounds: dict[str, list[_Round]] = {name: [] for name in KINDS}
    tally = Tally()
    with running_system() as system:
        users = await open_users(system.ingress, USERS)
        async with open_connection(f"redis://127.0.0.1:{system.valkey_port}/0", name="bench") as valkey:
            await closed_loop(users, Kind(20), effort.of(3.0, 0.5), tally)  # warm
            gc.freeze()
            for _ in range(effort.of(3, 1)):
                for name, kind in KINDS.items():
                    rounds[name].append(await _round(users, kind, effort.of(5.0, 1.0), system.meter(), valkey, tally))
        for user in users:
            user.close()
    loads = [_load(name, measured) for name, measured in rounds.items()]
    slopes = [_slope(*pair, KINDS["200 deltas"].deltas - KINDS["20 deltas"].deltas) for pair in (loads[:2], loads[2:])]
    return Turns(loads, *slopes, tally.verified)


async def _round(
    users: Sequence[User], kind: Kind, seconds: float, meter: CpuMeter, valkey: Connection, tally: Tally
) -> _Round:
    running = asyncio.create_task(closed_loop(users, kind, seconds + 2 * _SETTLE_S, tally))
    await asyncio.sleep(_SETTLE_S)
    entries, before = await _log_entries(valkey), meter.read()
    await asyncio.sleep(seconds)
    after, appended = meter.read(), await _log_entries(valkey) - entries
    since = time.monotonic() - time.perf_counter()
    await running
    ended = [turn for turn in tally.turns if before.at < turn.ended_at - since <= after.at]
    count, took_s = len(ended), after.at - before.at
    return _Round(
        count / took_s,
        2 + sum(turn.deltas for turn in ended) / count,
        appended / count - _FEED_ENTRIES - 2,
        cores_used(before, after),
        cores_of_others(before, after),
        per_unit_us(before, after, count),
    )


async def turn_costs(
    users: Sequence[User], kind: Kind, seconds: float, meter: CpuMeter, tally: Tally
) -> dict[str, float]:
    """CPU microseconds a turn by component, in a closed loop for so many seconds."""
    seen, before = len(tally.turns), meter.read()
    await closed_loop(users, kind, seconds, tally)
    return per_unit_us(before, meter.read(), len(tally.turns) - seen)


async def closed_loop(users: Sequence[User], kind: Kind, seconds: float, tally: Tally) -> None:
    """Each user sends the next message when the turn before has ended, for so many seconds."""
    until = time.monotonic() + seconds

    async def one(user: User) -> None:
        while time.monotonic() < until:
            await user.turn(kind, tally)

    await asyncio.gather(*map(one, users))


async def _log_entries(valkey: Connection) -> int:
    text: bytes = await valkey.call("INFO", "commandstats")
    row = next((row for row in text.decode().splitlines() if row.startswith("cmdstat_xadd:")), "calls=0,")
    return int(row.partition("calls=")[2].partition(",")[0])


def _load(name: str, rounds: Sequence[_Round]) -> Load:
    return Load(
        kind=name,
        turns_per_s=spread(one.turns_per_s for one in rounds),
        events_per_turn=spread(one.events_per_turn for one in rounds).median,
        appends_per_turn=spread(one.appends_per_turn for one in rounds).median,
        cores=spread(one.cores for one in rounds).median,
        cores_of_others=spread(one.cores_of_others for one in rounds).median,
        cpu_us={part: spread(one.cpu_us[part] for one in rounds) for part in rounds[0].cpu_us},
        system_cpu_us=spread(sum(one.cpu_us.values()) - one.cpu_us[OWN] for one in rounds),
    )


def _slope(few: Load, many: Load, more: int) -> dict[str, float]:
    return {part: (many.cpu_us[part].median - few.cpu_us[part].median) / more for part in few.cpu_us}


def _whole_us(load: Load) -> float:
    return load.system_cpu_us.median + load.cpu_us[OWN].median


def section(result: Turns) -> Section:
    components = list(result.loads[0].cpu_us)
    system = [part for part in components if part != OWN]
    cpu = [[part, *(str(load.cpu_us[part]) for load in result.loads)] for part in components]
    facts = [
        ["turns/s", *(str(load.turns_per_s) for load in result.loads)],
        ["events a turn in the log", *(digits(load.events_per_turn) for load in result.loads)],
        ["batches of deltas a turn", *(digits(load.appends_per_turn) for load in result.loads)],
        ["cores busy with it", *(digits(load.cores) for load in result.loads)],
        ["cores busy with something else", *(digits(load.cores_of_others) for load in result.loads)],
        ["turns/s that 2 cores allow at that cost", *(digits(2e6 / _whole_us(load)) for load in result.loads)],
    ]
    slopes = [
        [name, *(digits(each[part]) for part in components), digits(sum(each[part] for part in system))]
        for name, each in (("a delta as said", result.delta_us), ("an event", result.event_us))
    ]
    twenty = result.loads[0]
    return Section(
        title="Turns per second, and where the CPU time goes",
        how=(
            f"{USERS} users in a closed loop, each turn in a new conversation; the bundle says its deltas as fast as "
            f"it "
            "can. *Deltas*: neighbours are joined when the log is behind. *Events*: neighbours have different "
            "markers, so "
            "that none are joined. CPU time is that of all threads of the component's processes. Every turn was seen "
            "to "
            f"start and end once; {result.verified} streams were decoded and compared with what the bundle said."
        ),
        tables=(
            Table(("", *(load.kind for load in result.loads)), facts),
            Table(
                ("CPU µs a turn", *(load.kind for load in result.loads)),
                [*cpu, ["**sum without load generator**", *(str(load.system_cpu_us) for load in result.loads)]],
            ),
            Table(
                ("CPU µs for one more of", *components, "sum without load generator"),
                slopes,
                caption="What 180 further deltas of a turn cost, for each of them:",
            ),
        ),
        charts=(
            Chart(
                "turns",
                "CPU microseconds of a turn, by component",
                [load.kind for load in result.loads],
                {part: [load.cpu_us[part].median for load in result.loads] for part in components},
                stacked=True,
            ),
        ),
        targets=(
            Target("turns/s of 20 deltas", 1000, twenty.turns_per_s.median, "/s", at_least=True),
            Target("CPU of an event over all sides", 10, sum(result.event_us[part] for part in system), "µs"),
            Target("CPU of a delta over all sides", 10, sum(result.delta_us[part] for part in system), "µs"),
        ),
    )


BENCH = Bench("turns", Turns, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
