"""A rush on the real system, and the same rush simulated: are the simulation's waits those that people have?

The simulation is fed by what was measured apart, under a light load before and after: the histogram of run times that
proc reports, and waits without a queue. Of the rush it knows when which user sends, and not how long a turn runs. Waits
of the real turns are those of PostgreSQL's rows.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from bench.alone import run_alone
from bench.cpu import cores_used
from bench.people import ended_turns, open_people, tokens_of
from bench.report import Bench, Curves, Effort, Section, Spread, Table, Target, digits, spread
from bench.system import System, running_system
from msgspec.structs import replace

from kdcube.capacity.arrivals import Arrival, arrivals
from kdcube.capacity.measured import Measured, by_bundle
from kdcube.capacity.outcome import pairs_of, wait_curve, waits_of
from kdcube.capacity.scenario import BundleLoad, RunTimes, Scenario, Senders, Tasks
from kdcube.capacity.service_times import ServiceTimes
from kdcube.capacity.simulation import Simulation
from kdcube.protocol.turns import UserType
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources
from kdcube.telemetry.instruments import Histogram

SLOTS = 16
BUNDLE = "bench@1.0.0"
LENGTHS = ServiceTimes.lognormal(0.4, 1.2)
"""How long bundles are asked to take."""
USERS = {UserType.PRIVILEGED: 5, UserType.PAID: 15, UserType.REGISTERED: 40, UserType.ANONYMOUS: 15}
SHARES = {UserType.PRIVILEGED: 0.05, UserType.PAID: 0.2, UserType.REGISTERED: 0.5, UserType.ANONYMOUS: 0.25}
"""Of all messages."""
LIGHT_PER_S, BEFORE_PER_S, PEAK_PER_S = 12.0, 15.0, 40.0
WITHIN = 0.25
_NAMES = [
    (user_type, f"{user_type}-{number}-{user}")
    for number, (user_type, users) in enumerate(USERS.items())
    for user in range(users)
]
"""As arrivals name them."""
_GATEWAY = {"tenant": "bench", "project": "main", "profile": "load_test"}
_SEEDS = 9


@dataclass(frozen=True, slots=True)
class Compared:
    """Waits in seconds; of the simulation over its seeds."""

    turns: int
    real_p50_s: float
    real_p95_s: float
    simulated_p50_s: Spread
    simulated_p95_s: Spread

    @property
    def off(self) -> float:
        """By which part of the real p95 the simulated one differs."""
        return abs(self.simulated_p95_s.median - self.real_p95_s) / self.real_p95_s if self.real_p95_s else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    all: Compared
    by_class: dict[str, Compared]
    real_curve: list[tuple[float, float]]
    simulated_curve: list[tuple[float, float]]
    real_shares: list[tuple[float, float]]
    simulated_shares: list[tuple[float, float]]
    """Of the turns, how many waited no longer than so many seconds: (seconds, percent)."""


@dataclass(frozen=True, slots=True)
class Capacity:
    light_turns: int
    run_mean_s: dict[str, float]
    """In each part of the run: ``before`` and ``after`` are what is fed, ``rush`` is what it does not know."""
    wait_mean_s: float
    """Without a queue."""
    rush_s: float
    cores: float
    waits: Comparison


@dataclass(frozen=True, slots=True)
class _Real:
    """One turn as its row says."""

    accepted_s: float
    user_type: str
    wait_s: float


def _scenario(
    duration_s: float,
    curve: list[tuple[float, float]],
    run: RunTimes,
    overhead: RunTimes,
    *,
    same_conversation: float = 0.1,
) -> Scenario:
    return Scenario(
        name="rush",
        duration_s=duration_s,
        senders=[
            Senders(
                user_type=user_type, users=users, bundle=BUNDLE, same_conversation=same_conversation,
                turns_per_s=[(at, rate * SHARES[user_type]) for at, rate in curve],
            )
            for user_type, users in USERS.items()
        ],
        bundles={BUNDLE: BundleLoad(run=run, host_start_s=0.0)},
        tasks=Tasks(count=1, slots=SLOTS, overhead=overhead),
        gateway={"profile": "load_test"},
    )  # fmt: skip


async def measure(effort: Effort) -> Capacity:
    light_s, stretch = effort.of(60.0, 1.0), effort.of(1.0, 0.03)
    at = [0.0, 15 * stretch, 25 * stretch, 75 * stretch, 85 * stretch]
    rates = [BEFORE_PER_S, BEFORE_PER_S, PEAK_PER_S, PEAK_PER_S, BEFORE_PER_S]
    guess = RunTimes(values_s=list(LENGTHS.values_s))
    light = _scenario(light_s, [(0.0, LIGHT_PER_S)], guess, guess, same_conversation=0.0)
    rush = _scenario(130 * stretch, list(zip(at, rates, strict=True)), guess, guess)
    random_ = random.Random(7)  # noqa: S311
    sent = {"before": arrivals(light, random_), "rush": arrivals(rush, random_), "after": arrivals(light, random_)}
    sent["warm"] = [
        Arrival(0.0, one.user_type, one.user, f"{number}", BUNDLE)
        for number, one in enumerate(sent["rush"][: 2 * SLOTS])
    ]
    rows: dict[str, list[asyncpg.Record]] = {}
    began_ms: dict[str, int] = {}
    cores: dict[str, float] = {}
    with running_system(slots=SLOTS, gateway=_GATEWAY, tokens=tokens_of(_NAMES)) as system:
        people = await open_people(system, _NAMES, LENGTHS)
        try:
            for name in ("warm", "before", "rush", "after"):
                meter = system.meter()
                before, began_ms[name] = meter.read(), await people.send(name, sent[name])
                cores[name] = cores_used(before, meter.read())
                rows[name] = await ended_turns(system, name, len(sent[name]))
            await _check_report(system, [row for of in rows.values() for row in of])
        finally:
            people.close()
    real = [
        _Real((row["accepted_ms"] - began_ms["rush"]) / 1000, row["user_type"], _wait_s(row)) for row in rows["rush"]
    ]
    apart = [*rows["before"], *rows["after"]]
    runs, waits = _runs(apart), ServiceTimes.of(map(_wait_s, apart))
    fed = _scenario(rush.duration_s, [(0.0, 0.0)], _values(runs.times()), _values(waits))
    compared = await asyncio.to_thread(_compare, fed, sent["rush"], real)
    means = {name: of.sum_s / of.count for name in rows if (of := _runs(rows[name]))}
    return Capacity(len(apart), means, waits.mean_s, rush.duration_s, cores["rush"], compared)


def _runs(rows: Sequence[asyncpg.Record]) -> Measured:
    """As proc observes them."""
    runs = Histogram()
    for row in rows:
        runs.observe((row["ended_ms"] - row["started_ms"]) / 1000)
    return Measured(Counter({index: n for index, n in enumerate(runs.counts) if n}), runs.sum_s)


async def _check_report(system: System, rows: Sequence[asyncpg.Record]) -> None:
    """The histogram of run times that proc reports is that of the rows, to the last turn."""
    async with (
        asyncio.timeout(60),
        open_connection(f"redis://127.0.0.1:{system.valkey_port}/0", name="bench") as valkey,
    ):
        sources = Sources(valkey, Keys("bench", "main"))
        while True:
            reports = [source.report for source in await sources.read() if source.report is not None]
            reported = by_bundle(reports).get(BUNDLE, Measured())
            if reported.count == len(rows):
                assert reported.buckets == _runs(rows).buckets
                return
            assert reported.count < len(rows)
            await asyncio.sleep(0.1)


def _values(times: ServiceTimes) -> RunTimes:
    return RunTimes(values_s=[max(value, 1e-6) for value in times.values_s])


def _wait_s(row: asyncpg.Record) -> float:
    return (row["started_ms"] - row["accepted_ms"]) / 1000


def _compare(fed: Scenario, sent: Sequence[Arrival], real: Sequence[_Real]) -> Comparison:
    """Simulates what was sent, with several seeds for the times that it draws."""
    last_s = max(one.accepted_s + one.wait_s for one in real)
    longer = replace(fed, duration_s=last_s + 60)
    courses = [Simulation(replace(longer, seed=seed), sent=sent).run() for seed in range(_SEEDS)]
    simulated = [[(turn.accepted_s, turn.user_type, turn.wait_s or 0.0) for turn in course.turns] for course in courses]

    def compared(name: str | None) -> Compared:
        waited = waits_of(one.wait_s for one in real if name in (None, one.user_type))
        of_seeds = [waits_of(wait for _, of, wait in turns if name in (None, of)) for turns in simulated]
        return Compared(
            waited.started,
            waited.p50_s,
            waited.p95_s,
            spread(one.p50_s for one in of_seeds),
            spread(one.p95_s for one in of_seeds),
        )

    curves = [dict(wait_curve(pairs_of(course.turns), fed.duration_s)) for course in courses]
    at = sorted(set[float]().union(*curves))
    pooled = [wait for turns in simulated for _, _, wait in turns]
    return Comparison(
        all=compared(None),
        by_class={str(user_type): compared(user_type) for user_type in USERS},
        real_curve=wait_curve(((one.accepted_s, one.wait_s) for one in real), fed.duration_s),
        simulated_curve=[
            (second, spread(curve[second] for curve in curves if second in curve).median) for second in at
        ],
        real_shares=_shares([one.wait_s for one in real]),
        simulated_shares=_shares(pooled),
    )


def _shares(waits: Sequence[float]) -> list[tuple[float, float]]:
    rising = sorted(waits)
    return [(rising[int(percent / 100 * (len(rising) - 1))], percent) for percent in range(0, 101, 2)]


def section(result: Capacity) -> Section:
    waits, mean = result.waits, result.run_mean_s
    rows = [
        [
            name,
            f"{one.turns:,}",
            digits(one.real_p50_s),
            str(one.simulated_p50_s),
            digits(one.real_p95_s),
            str(one.simulated_p95_s),
            f"{one.off * 100:.0f} %",
        ]
        for name, one in {"**all**": waits.all, **waits.by_class}.items()
    ]
    return Section(
        title="A rush, and its simulation",
        how=(
            f"{sum(USERS.values())} users with a stream each, one proc with {SLOTS} slots. Messages come at random: "
            f"{BEFORE_PER_S:g} a second, then {PEAK_PER_S:g}, more than the slots can run, then {BEFORE_PER_S:g} "
            f"again; {waits.all.turns:,} in {result.rush_s:.0f} s, a tenth of them into a conversation that may be "
            "busy. The simulation gets the same messages. It draws run times from the histogram of "
            f"{result.light_turns:,} turns under a light load before and after ({mean['before']:.3f} and "
            f"{mean['after']:.3f} s on average), and waits without a queue ({result.wait_mean_s * 1000:.1f} ms) from "
            f"the same turns; {_SEEDS} draws, their median and range. What it is not told: turns of the rush ran for "
            f"{mean['rush']:.3f} s on average. The system kept {result.cores:.2f} cores busy. Waits, from admission "
            "to START, in seconds."
        ),
        tables=(
            Table(("class", "turns", "real p50", "simulated p50", "real p95", "simulated p95", "p95 off by"), rows),
        ),
        charts=(
            Curves(
                "rush",
                "Wait p95 of a rush, by when the message came",
                {"real": waits.real_curve, "simulated": waits.simulated_curve},
                "seconds",
                "seconds",
            ),
            Curves(
                "rush-shares",
                "Turns of a rush that waited no longer",
                {"real": waits.real_shares, "simulated": waits.simulated_shares},
                "seconds",
                "percent",
            ),
        ),
        targets=(Target("wait p95 of the simulated rush off by", WITHIN * 100, waits.all.off * 100, "%"),),
    )


BENCH = Bench("capacity", Capacity, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
