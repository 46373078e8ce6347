"""One soak: warm-up, beginning, load with faults, end; everything that is sampled on the way."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.soak.faults import Faults, Struck
from bench.soak.leaks import Leak, leaking
from bench.soak.load import Load
from bench.soak.processes import HOST, OWN, POSTGRES, Held, sample
from bench.soak.stores import (
    NAME,
    KeyCensus,
    PostgresState,
    ValkeyState,
    census,
    postgres_state,
    published_ms,
    turns_by_id,
    valkey_state,
)
from bench.soak.system import HOSTS, System, running_system
from bench.soak.visitor import Habits, Tally

from kdcube.redis.connection import Connection, open_connection

_READY_LIMIT_S = 60.0
_SETTLE_POLL_S = 1.0
_LEAK_BYTES = 1 << 19
_LATE_EACH = 50
_ALLOWED = {"fds": 0, "threads": min(32, (os.cpu_count() or 1) + 4)}
"""A process's pool of threads (asyncio's default executor) fills up as it is needed."""
_FDS_A_HOST = 7
"""What a proc holds open for each of its bundle hosts, of which it keeps as many as it lately needed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``rate_per_s`` of messages; None: ``load_share`` of what the ramp finds. ``fault_pause_s``: the mean pause."""

    minutes: float
    seed: int
    rate_per_s: float | None = None
    ramp_s: float = 45.0
    sample_every_s: float = 5.0
    fault_pause_s: float = 25.0
    settle_s: float = 60.0
    """So long, at most, it may take in the end until no more is open than in the beginning."""
    load_share: float = 0.6
    leaks: frozenset[Leak] = frozenset()


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at one moment, in seconds of the run. A store that is away is None."""

    at_s: float
    processes: dict[str, list[Held]]
    valkey: ValkeyState | None
    postgres: PostgresState | None
    accepted: int
    visitors: int

    @property
    def is_idle(self) -> bool:
        return self.valkey is not None and self.postgres is not None and not self.postgres.unfinished


@dataclass(slots=True)
class Record:
    """All that a soak has to be judged by."""

    plan: Plan
    capacity_per_s: float | None = None
    rate_per_s: float = 0.0
    load_s: float = 0.0
    begin: Sample | None = None
    samples: list[Sample] = field(default_factory=list[Sample])
    """Under load."""
    end: Sample | None = None
    keys_at_begin: KeyCensus | None = None
    keys_at_end: KeyCensus | None = None
    struck: list[Struck] = field(default_factory=list[Struck])
    tally: Tally = field(default_factory=Tally)
    worst_lag_s: float = 0.0
    late_s: list[float] = field(default_factory=list[float])
    """A sample of the seconds from when a message was due to the last event of its turn."""


async def soak(plan: Plan) -> Record:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    choose = random.Random(plan.seed)  # noqa: S311 - no secret
    record, began = Record(plan), time.monotonic()

    def clock() -> float:
        return time.monotonic() - began

    with running_system() as system:
        async with open_connection(system.valkey_url, name=NAME) as valkey:
            await system.healed(_READY_LIMIT_S)
            habits = Habits(
                leak_bytes=_LEAK_BYTES if "memory" in plan.leaks else 0,
                leak_files=1 if "descriptors" in plan.leaks else 0,
            )
            load = Load(system.ingress, system.folder, habits, choose)
            record.tally = load.tally
            look = _Look(system, valkey, load, clock)
            try:
                await _warm_up(plan, load, record)
                record.begin = await _settled(look, None, plan.settle_s)
                record.keys_at_begin = await _census(system, valkey)
                async with leaking(plan.leaks, system) as stop_leaking:
                    await _under_load(plan, system, load, look, record, choose)
                    stop_leaking()
                    print(f"{clock():7.1f} s: the load stops", flush=True)
                    await load.settle()
                    record.end = await _settled(look, record.begin, plan.settle_s)
                    record.keys_at_end = await _census(system, valkey)
            finally:
                load.close()
    return record


async def _warm_up(plan: Plan, load: Load, record: Record) -> None:
    """Everything is used as it will be; what that shows is the machine's capacity."""
    record.capacity_per_s = await load.ramp(plan.ramp_s)
    record.rate_per_s = plan.rate_per_s or plan.load_share * record.capacity_per_s
    print(
        f"the machine carries {record.capacity_per_s:.0f} turns/s; the load will be {record.rate_per_s:.0f}/s",
        flush=True,
    )
    await load.settle()
    load.tally.late.clear()
    load.worst_lag_s = 0.0


async def _under_load(
    plan: Plan, system: System, load: Load, look: _Look, record: Record, choose: random.Random
) -> None:
    faults = Faults(system, random.Random(choose.random()), look.clock)  # noqa: S311 - no secret
    record.struck = faults.struck
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sampling(plan, look, record, choose))
        group.create_task(faults.strike_often(plan.fault_pause_s))
        await load.open_loop(record.rate_per_s, plan.minutes * 60)
        record.load_s = time.monotonic() - began
        sampling.cancel()
        faults.end()
    await system.healed(_READY_LIMIT_S)
    record.worst_lag_s = load.worst_lag_s


async def _sampling(plan: Plan, look: _Look, record: Record, choose: random.Random) -> None:
    while True:
        await asyncio.sleep(plan.sample_every_s)
        record.samples.append(await look.sample())
        late = record.tally.late
        record.late_s += choose.sample(late, min(len(late), _LATE_EACH))
        late.clear()


async def _settled(look: _Look, begin: Sample | None, limit_s: float) -> Sample:
    """The first moment at which nothing is under way and no more is open than at ``begin``; at worst, later."""
    until = time.monotonic() + limit_s
    await asyncio.sleep(_SETTLE_POLL_S)
    while True:
        found = await look.sample(exact=True)
        if time.monotonic() > until or (found.is_idle and (begin is None or not more_open(begin, found))):
            return found
        await asyncio.sleep(_SETTLE_POLL_S)


async def _census(system: System, valkey: Connection) -> KeyCensus:
    return await census(valkey, await turns_by_id(system), await published_ms(system))


def more_open(begin: Sample, end: Sample) -> list[str]:
    """What of descriptors, threads and connections is more in the end than it was in the beginning."""
    more: list[str] = []
    more_hosts = max(0, len(end.processes.get(HOST, ())) - len(begin.processes.get(HOST, ())))
    for name, before in begin.processes.items():
        after = end.processes.get(name, [])
        if name in (OWN, POSTGRES):  # PostgreSQL's are its connections
            continue
        if len(after) > max(len(before), HOSTS if name == HOST else 0):
            more.append(f"{name}: {len(after)} processes instead of {len(before)}")
            continue
        for what in ("fds", "threads"):
            was, now = (max(getattr(one, what) for one in each) for each in (before, after))
            hosts = _FDS_A_HOST * more_hosts if what == "fds" and name.startswith("proc-") else 0
            if now > was + _ALLOWED[what] + hosts:
                more.append(f"{name}: {now} {what} instead of {was}")
    if begin.valkey and end.valkey:
        for what in ("connections", "channels"):
            was, now = getattr(begin.valkey, what), getattr(end.valkey, what)
            if now > was:
                more.append(f"Valkey: {now} {what} instead of {was}")
    return more


class _Look:
    """Takes samples."""

    def __init__(self, system: System, valkey: Connection, load: Load, clock: Callable[[], float]) -> None:
        self._system = system
        self._valkey = valkey
        self._load = load
        self.clock = clock

    async def sample(self, *, exact: bool = False) -> Sample:
        at_s = self.clock()
        processes = await asyncio.to_thread(sample, self._system)
        return Sample(
            at_s,
            processes,
            await valkey_state(self._valkey),
            await postgres_state(self._system, exact=exact),
            self._load.tally.accepted,
            self._load.visitors,
        )
