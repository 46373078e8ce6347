"""From a load to tasks, slots, connections and cores, by formulas that each line of a plan names.

- Little's law: turns that run at once = turns a second x mean run time.
- Waiting: the Erlang C formula for the share of turns that wait at all, with an exponential tail (M/M/c); both are
  corrected for run times and arrivals that vary otherwise by Allen and Cunneen (Allen, "Probability, Statistics, and
  Queueing Theory", 2nd ed., 1990, section 5.3): mean wait of G/G/c = that of M/M/c x (ca2 + cs2) / 2.
- Connections: what every process may open, as the sum must be below what PostgreSQL accepts.

A plan is for a steady rate at the peak. What happens on the way there is what ``simulation.py`` shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdcube.capacity.costs import COMPONENTS, Costs
from kdcube.capacity.service_times import ServiceTimes
from kdcube.config.gateway import GatewayConfig
from kdcube.protocol.errors import InvalidInput

SLOTS_MAX = 100_000
CPU_BUSY = 0.6
"""Of a core on average: above that waits for it grow quickly."""
_STREAM_KB = 15.0
"""Of an idle stream with both of its ends in the kernel, in docs/performance.md ("Memory of an idle stream")."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is offered at the peak, and what is wanted."""

    turns_per_s: float
    run: ServiceTimes
    wait_p95_s: float
    streams: int
    deltas: float
    """That a turn says."""
    arrivals: float = 1.0
    """Squared coefficient of variation of the times between messages: 1 for independent users, more for bursts."""
    slots: int = 16
    """Of a task of proc."""
    proxylogin: int = 0
    """Processes of proxylogin, where people sign in through it."""
    spare: int = 1
    """Tasks of each service that may be missing at the peak."""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a plan, and how it came about."""

    what: str
    value: str
    how: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``slots`` without spare ones; ``wait_p95_s`` with the tasks that are left when ``spare`` are missing."""

    slots: int
    tasks: int
    ingress_processes: int
    connections: int
    wait_p95_s: float
    lines: Sequence[Line]


def waits_at_all(slots: int, offered: float) -> float:
    """Erlang C: the share of turns that find no free slot. ``offered``: turns that run at once, below ``slots``."""
    blocked = 1.0  # Erlang B by its recursion
    for number in range(1, slots + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / slots * (1 - blocked))


def wait_s(slots: int, demand: Demand, share: float) -> float:
    """What ``share`` of the turns do not wait longer than; infinite when slots do not suffice."""
    offered = demand.turns_per_s * demand.run.mean_s
    if offered >= slots:
        return math.inf
    waiting = waits_at_all(slots, offered)
    if waiting <= 1 - share:
        return 0.0
    varies = (demand.arrivals + demand.run.variability) / 2
    return demand.run.mean_s * varies / (slots - offered) * math.log(waiting / (1 - share))


def fewest_slots(demand: Demand) -> int:
    """Raises InvalidInput where that would be beyond reason."""
    offered = demand.turns_per_s * demand.run.mean_s
    slots = math.floor(offered) + 1
    while wait_s(slots, demand, 0.95) > demand.wait_p95_s:
        slots += 1
        if slots > SLOTS_MAX:
            raise InvalidInput("turns_per_s", f"turns_per_s: that takes more than {SLOTS_MAX:,} slots; give less")
    return slots


def plan(demand: Demand, config: GatewayConfig, costs: Costs) -> Plan:
    """Raises InvalidInput."""
    slots = fewest_slots(demand)
    needed = math.ceil(slots / demand.slots)
    tasks = needed + demand.spare
    cores = {name: costs.cores(name, demand.turns_per_s, demand.deltas) for name in COMPONENTS}
    ingress = _ingress(demand, config, cores["ingress"])
    wait = wait_s(needed * demand.slots, demand, 0.95)
    connections = _connections(config, ingress.processes, demand.proxylogin, tasks)
    return Plan(
        slots=slots,
        tasks=tasks,
        ingress_processes=ingress.processes,
        connections=connections.steady,
        wait_p95_s=wait,
        lines=[
            *_running(demand, slots, needed, tasks, wait),
            *ingress.lines,
            *connections.lines,
            *_pressure(demand, config, needed),
            *(
                Line(
                    f"cores of {name}",
                    f"{core / CPU_BUSY:.2f}",
                    f"{core:.3f} busy, {costs.told(name)}; at {CPU_BUSY:.0%}",
                )
                for name, core in cores.items()
            ),
        ],
    )


def _running(demand: Demand, slots: int, needed: int, tasks: int, wait: float) -> list[Line]:
    run = demand.run
    offered = demand.turns_per_s * run.mean_s
    left = needed * demand.slots
    return [
        Line("turns that run at once", f"{offered:.1f}", f"Little: {demand.turns_per_s:g}/s x {run.mean_s:.2f} s"),
        Line(
            "slots",
            f"{slots}",
            f"fewest with a wait p95 of {demand.wait_p95_s:g} s or less: Erlang C, ca2 {demand.arrivals:g}, "
            f"cs2 {run.variability:.2f}",
        ),
        Line("tasks of proc", f"{tasks}", f"{slots} slots / {demand.slots}, rounded up, and {demand.spare} to spare"),
        Line(
            "wait p95", f"{wait:.2f} s", f"with {left} slots, {demand.spare} tasks missing; {offered / left:.0%} busy"
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Ingress:
    processes: int
    lines: Sequence[Line]


def _ingress(demand: Demand, config: GatewayConfig, cores: float) -> _Ingress:
    cap = config.limits.ingress.max_sse_connections_per_instance
    by_streams, by_cores = math.ceil(demand.streams / cap), math.ceil(cores / CPU_BUSY)
    processes = max(by_streams, by_cores, 1) + demand.spare
    left = processes - demand.spare
    lines = [
        Line(
            "ingress processes",
            f"{processes}",
            f"{by_streams} for {demand.streams:,} streams at {cap:,} each, {by_cores} for {cores:.2f} busy cores; "
            f"the larger, and {demand.spare} to spare",
        ),
        Line(
            "saturation of ingress",
            f"{demand.streams / (left * cap):.0%}",
            f"streams / cap of {left} processes, {demand.spare} missing",
        ),
        Line(
            "memory of streams", f"{demand.streams * _STREAM_KB / 1024:.0f} MB", f"{_STREAM_KB:g} KB each, all in all"
        ),
    ]
    return _Ingress(processes, lines)


@dataclass(frozen=True, slots=True)
class _Connections:
    steady: int
    lines: Sequence[Line]


def _connections(config: GatewayConfig, ingress: int, proxylogin: int, tasks: int) -> _Connections:
    of_ingress, of_proc = config.pools.ingress.pg_pool_max_size, config.pools.proc.pg_pool_max_size
    procs = tasks * config.service_capacity.proc.processes_per_instance
    steady = (ingress + proxylogin) * of_ingress + procs * (of_proc + 1)
    named = f"{ingress} x {of_ingress} of ingress, " + (
        f"{proxylogin} x {of_ingress} of proxylogin, " * bool(proxylogin)
    )
    lines = [
        Line(
            "connections to PostgreSQL",
            f"{steady}",
            f"{named}{procs} x ({of_proc} and the leader's lock) of proc",
        ),
        Line("while a deployment runs", f"{2 * steady}", "old and new side by side: maximumPercent 200"),
    ]
    return _Connections(steady, lines)


def _pressure(demand: Demand, config: GatewayConfig, needed: int) -> list[Line]:
    pressure = config.backpressure.ingress
    capacity = needed * demand.slots * (1 - pressure.capacity_buffer) * pressure.queue_depth_multiplier
    waiting = min(capacity * pressure.hard_limit_threshold - needed * demand.slots, config.limits.proc.max_queue_size)
    drained = waiting * demand.run.mean_s / (needed * demand.slots)
    return [
        Line(
            "turns that may wait",
            f"{max(waiting, 0):,.0f}",
            "backpressure of the least limited class, and max_queue_size; beyond that 503",
        ),
        Line("time to work them off", f"{max(drained, 0):.0f} s", "when nothing else came: x mean run time / slots"),
    ]
