"""A rush on the real system, and the same rush simulated: are the simulation's waits those that people have?

The simulation is fed by what was measured apart, under a light load before: the histograms of run times that proc
reports, and waits without a queue. Of the rush it knows when which user sends, and not how long a turn
runs. Waits of the real turns are those of PostgreSQL's rows.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from bench.alone import run_alone
from bench.client import Messages
from bench.cpu import cores_used
from bench.readers import Counter, open_reader
from bench.report import Bench, Curves, Effort, Section, Spread, Table, Target, digits, spread
from bench.system import System, running_system
from msgspec.structs import replace

from kdcube.capacity.arrivals import Arrival, arrivals
from kdcube.capacity.measured import RUNS, Measured, by_bundle
from kdcube.capacity.outcome import pairs_of, wait_curve, waits_of
from kdcube.capacity.scenario import BundleLoad, RunTimes, Scenario, Senders, Tasks
from kdcube.capacity.service_times import ServiceTimes
from kdcube.capacity.simulation import Simulation
from kdcube.local.postgres import running_dsn
from kdcube.protocol.turns import UserType
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources

SLOTS = 16
BUNDLE = "bench@1.0.0"
LENGTHS = ServiceTimes.lognormal(0.4, 1.2)
"""How long bundles are asked to take."""
USERS = {UserType.PRIVILEGED: 5, UserType.PAID: 15, UserType.REGISTERED: 40, UserType.ANONYMOUS: 15}
SHARES = {UserType.PRIVILEGED: 0.05, UserType.PAID: 0.2, UserType.REGISTERED: 0.5, UserType.ANONYMOUS: 0.25}
"""Of all messages."""
LIGHT_PER_S, BEFORE_PER_S, PEAK_PER_S = 12.0, 15.0, 40.0
WITHIN = 0.25
_ROLES = {UserType.PRIVILEGED: ["kdcube:role:admin"], UserType.PAID: ["kdcube:role:paid"], UserType.REGISTERED: []}
_GATEWAY = {"tenant": "bench", "project": "main", "profile": "load_test"}
_DELTAS = 10
_CONNECTIONS = 48
_LIMIT_S = 120.0
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
class Capacity:
    light_turns: int
    run_mean_s: float
    wait_mean_s: float
    """Without a queue."""
    rush_s: float
    cores: float
    all: Compared
    by_class: dict[str, Compared]
    real_curve: list[tuple[float, float]]
    simulated_curve: list[tuple[float, float]]
    real_shares: list[tuple[float, float]]
    simulated_shares: list[tuple[float, float]]
    """Of the turns, how many waited no longer than so many seconds: (seconds, percent)."""


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
    light_s, stretch = effort.of(120.0, 2.0), effort.of(1.0, 0.03)
    at = [0.0, 15 * stretch, 25 * stretch, 75 * stretch, 85 * stretch]
    rates = [BEFORE_PER_S, BEFORE_PER_S, PEAK_PER_S, PEAK_PER_S, BEFORE_PER_S]
    guess = RunTimes(values_s=list(LENGTHS.values_s))
    light = _scenario(light_s, [(0.0, LIGHT_PER_S)], guess, guess, same_conversation=0.0)
    rush = _scenario(130 * stretch, list(zip(at, rates, strict=True)), guess, guess)
    tokens = {f"token-{name}": {"sub": name, "roles": roles} for name, roles in _signed_in().items()}
    random_ = random.Random(7)  # noqa: S311
    with running_system(slots=SLOTS, gateway=_GATEWAY, tokens=tokens) as system:
        people = await _open_people(system)
        try:
            sent = arrivals(light, random_)
            warm = [
                Arrival(0.0, one.user_type, one.user, f"{number}", BUNDLE)
                for number, one in enumerate(sent[: 2 * SLOTS])
            ]
            for name, messages in (("warm", warm), ("light", sent)):
                await people.send(name, messages)
                light_rows = await _rows(system, name, len(messages))
            waits = ServiceTimes.of(map(_wait_s, light_rows))
            runs = await _runs(system, len(warm) + len(sent))
            sent, meter = arrivals(rush, random_), system.meter()
            before = meter.read()
            began_ms = await people.send("rush", sent)
            after = meter.read()
            rows = await _rows(system, "rush", len(sent))
        finally:
            people.close()
    real = [_Real((row["accepted_ms"] - began_ms) / 1000, row["user_type"], _wait_s(row)) for row in rows]
    fed = _scenario(rush.duration_s, [(0.0, 0.0)], _values(runs.times()), _values(waits))
    return await asyncio.to_thread(_compare, fed, sent, real, runs, waits, cores_used(before, after))


def _values(times: ServiceTimes) -> RunTimes:
    return RunTimes(values_s=[max(value, 1e-6) for value in times.values_s])


def _wait_s(row: asyncpg.Record) -> float:
    return (row["started_ms"] - row["accepted_ms"]) / 1000


def _compare(
    fed: Scenario, sent: Sequence[Arrival], real: Sequence[_Real], runs: Measured, waits: ServiceTimes, cores: float
) -> Capacity:
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
    return Capacity(
        light_turns=runs.count,
        run_mean_s=runs.sum_s / runs.count,
        wait_mean_s=waits.mean_s,
        rush_s=fed.duration_s,
        cores=cores,
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


# ---- the real system


def _signed_in() -> dict[str, list[str]]:
    """Roles by user, with the names that arrivals have."""
    return {
        f"{user_type}-{number}-{user}": _ROLES[user_type]
        for number, (user_type, users) in enumerate(USERS.items())
        for user in range(users)
        if user_type in _ROLES
    }


class People:
    """Users with a stream each, and connections by which their messages go."""

    def __init__(
        self, sessions: dict[str, str], connections: Sequence[Messages], close_streams: Sequence[object]
    ) -> None:
        self._sessions = sessions
        self._all = connections
        self._streams = close_streams
        self._free = asyncio.Queue[Messages]()  # in turn, so that none is idle for so long that it is closed
        for connection in connections:
            self._free.put_nowait(connection)

    async def send(self, name: str, sent: Sequence[Arrival]) -> int:
        """Sends each when it is due; the wall clock (ms) at the beginning. Their lengths are the quantiles of LENGTHS
        in random order, so that two loads differ in their order and not in what they ask for in all.
        """
        random_ = random.Random(name)  # noqa: S311
        lengths = [LENGTHS.percentile_s((number + 0.5) / len(sent)) for number in range(len(sent))]
        random_.shuffle(lengths)
        began, began_ms = time.monotonic(), int(time.time() * 1000)
        tasks: list[asyncio.Task[None]] = []
        for number, (arrival, length_s) in enumerate(zip(sent, lengths, strict=True)):
            if (early := began + arrival.at_s - time.monotonic()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(self._send(f"{name}-{number}", arrival, length_s)))
        await asyncio.gather(*tasks)
        return began_ms

    async def _send(self, name: str, arrival: Arrival, length_s: float) -> None:
        orders = {"deltas": _DELTAS, "pause_ms": length_s * 1000 / (_DELTAS - 2)}
        message = {
            "text": "bench", "turn_id": name, "conversation_id": f"{name.split('-')[0]}-{arrival.conversation}",
            "payload": {"bench": orders},
        }  # fmt: skip
        body = json.dumps({"message": message})
        who = (
            f"User-Session-ID: {self._sessions[arrival.user]}"
            if arrival.user_type not in _ROLES
            else f"Authorization: Bearer token-{arrival.user}"
        )
        connection = await self._free.get()
        status, answer = await connection.ask(
            f"POST /sse/chat HTTP/1.1\r\nHost: bench\r\n{who}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        self._free.put_nowait(connection)
        assert status == 202, (status, answer)

    def close(self) -> None:
        for connection in (*self._all, *self._streams):
            connection.close()  # pyright: ignore


async def _open_people(system: System) -> People:
    loop = asyncio.get_running_loop()
    addresses, counter = system.ingress, Counter()
    connections = [
        (await loop.create_connection(Messages, *addresses[number % len(addresses)]))[1]
        for number in range(_CONNECTIONS)
    ]
    sessions: dict[str, str] = {}
    streams: list[object] = []
    names = [
        (user_type, f"{user_type}-{number}-{user}")
        for number, (user_type, users) in enumerate(USERS.items())
        for user in range(users)
    ]
    for place, (user_type, name) in enumerate(names):
        token = f"Authorization: Bearer token-{name}\r\n" if user_type in _ROLES else ""
        _, body = await connections[0].ask(f"GET /profile HTTP/1.1\r\nHost: bench\r\n{token}\r\n".encode())
        sessions[name] = json.loads(body)["session_id"]
        query = f"stream_id=s{place}&user_session_id={sessions[name]}"
        if token:
            query += f"&bearer_token=token-{name}"
        _, port = addresses[place % len(addresses)]
        streams.append(await open_reader(port, f"/sse/stream?{query}", counter))
    return People(sessions, connections, streams)


async def _rows(system: System, name: str, count: int) -> list[asyncpg.Record]:
    """The rows of what was sent under ``name``, when all have ended."""
    dsn = running_dsn(system.home / "postgres")
    assert dsn is not None
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                rows = await connection.fetch(
                    "select user_type, accepted_ms, started_ms, ended_ms, state, attempt from turns"
                    " where client_turn_id like $1",
                    f"{name}-%",
                )
                ended = [row for row in rows if row["ended_ms"] is not None]
                if len(ended) == count:
                    assert all(row["state"] == "completed" and row["attempt"] == 1 for row in rows), rows
                    return rows
                await asyncio.sleep(0.2)
    finally:
        await connection.close()


async def _runs(system: System, count: int) -> Measured:
    """How long turns ran, as proc reports it when it has reported ``count`` of them."""
    async with (
        asyncio.timeout(_LIMIT_S),
        open_connection(f"redis://127.0.0.1:{system.valkey_port}/0", name="bench") as valkey,
    ):
        sources = Sources(valkey, Keys("bench", "main"))
        while True:
            reports = [source.report for source in await sources.read() if source.report is not None]
            runs = by_bundle(reports, RUNS).get(BUNDLE, Measured())
            if runs.count == count:
                return runs
            await asyncio.sleep(0.1)


def section(result: Capacity) -> Section:
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
        for name, one in {"**all**": result.all, **result.by_class}.items()
    ]
    return Section(
        title="A rush, and its simulation",
        how=(
            f"{sum(USERS.values())} users with a stream each, one proc with {SLOTS} slots. Messages come at random: "
            f"{BEFORE_PER_S:g} a second, then {PEAK_PER_S:g}, more than the slots can run, then {BEFORE_PER_S:g} "
            f"again; {result.all.turns:,} in {result.rush_s:.0f} s, a tenth of them into a conversation that may be "
            f"busy. The simulation gets the same messages, and draws run times ({result.run_mean_s:.3f} s on average) "
            f"from the histogram that proc reported of {result.light_turns:,} turns under a light load before, and "
            f"waits without a queue ({result.wait_mean_s * 1000:.1f} ms) from those turns' rows; "
            f"{_SEEDS} draws, their median and range. The "
            f"system kept {result.cores:.2f} cores busy. Waits, from admission to START, in seconds."
        ),
        tables=(
            Table(
                ("class", "turns", "real p50", "simulated p50", "real p95", "simulated p95", "p95 off by"),
                rows,
            ),
        ),
        charts=(
            Curves(
                "rush",
                "Wait p95 of a rush, by when the message came",
                {"real": result.real_curve, "simulated": result.simulated_curve},
                "seconds",
                "seconds",
            ),
            Curves(
                "rush-shares",
                "Turns of a rush that waited no longer",
                {"real": result.real_shares, "simulated": result.simulated_shares},
                "seconds",
                "percent",
            ),
        ),
        targets=(Target("wait p95 of the simulated rush off by", WITHIN * 100, result.all.off * 100, "%"),),
    )


BENCH = Bench("capacity", Capacity, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
