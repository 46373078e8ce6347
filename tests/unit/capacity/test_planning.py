"""The formulas of a plan, held against tables and against the simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kdcube.capacity.costs import MEASURED
from kdcube.capacity.outcome import outcome_of
from kdcube.capacity.planning import Demand, fewest_slots, plan, wait_s, waits_at_all
from kdcube.capacity.scenario import BundleLoad, RunTimes, Scenario, Senders, Tasks
from kdcube.capacity.service_times import ServiceTimes
from kdcube.capacity.simulation import Simulation
from kdcube.config.gateway import Valid, check_gateway

EXPONENTIAL = ServiceTimes.of(-math.log(1 - (n + 0.5) / 2_000) for n in range(2_000))
DEMAND = Demand(turns_per_s=8.0, run=EXPONENTIAL, wait_p95_s=1.0, streams=25_000, deltas=200, slots=4, spare=1)


@pytest.mark.parametrize(
    ("slots", "offered", "waiting"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (10, 8.0, 0.4092), (100, 90.0, 0.2169)]
)
def test_the_share_that_waits_is_that_of_the_tables(slots: int, offered: float, waiting: float) -> None:
    assert waits_at_all(slots, offered) == pytest.approx(waiting, abs=5e-5)


def test_a_single_server_waits_by_the_formula_of_one() -> None:
    """M/M/1: P(wait > t) = load x exp(-(1 - load) t)."""
    demand = replace(DEMAND, turns_per_s=0.8)
    assert wait_s(1, demand, 0.95) == pytest.approx(math.log(0.8 / 0.05) / 0.2, rel=0.01)
    assert wait_s(1, replace(demand, turns_per_s=1.01), 0.95) == math.inf


@pytest.mark.parametrize(
    ("run", "slots", "within"),
    [(EXPONENTIAL, 10, 0.15), (ServiceTimes.lognormal(0.7, 2.6), 11, 0.25)],  # the second is an approximation
)
def test_the_formula_and_the_simulation_agree(run: ServiceTimes, slots: int, within: float) -> None:
    scenario = Scenario(
        name="steady",
        duration_s=3_000,
        senders=[Senders(turns_per_s=[(0.0, 8.0)], bundle="one", users=100_000)],
        bundles={"one": BundleLoad(run=RunTimes(values_s=list(run.values_s)), concurrency=slots)},
        tasks=Tasks(count=1, slots=slots, overhead=RunTimes(fixed_s=1e-6)),
        gateway={"profile": "load_test"},
    )
    expected = wait_s(slots, replace(DEMAND, run=run), 0.95)
    assert outcome_of(Simulation(scenario).run()).all.p95_s == pytest.approx(expected, rel=within)


def test_slots_are_the_fewest_that_keep_the_wait() -> None:
    slots = fewest_slots(DEMAND)
    assert wait_s(slots, DEMAND, 0.95) <= DEMAND.wait_p95_s < wait_s(slots - 1, DEMAND, 0.95)


def test_a_plan_has_something_to_spare_of_each_service_and_counts_every_connection() -> None:
    checked = check_gateway(
        '{"tenant": "a", "project": "b", "pools": {"ingress": {"pg_pool_max_size": 5},'
        ' "proc": {"pg_pool_max_size": 7}}, "limits": {"max_sse_connections_per_instance": 10000}}'
    )
    assert isinstance(checked, Valid)
    made = plan(DEMAND, checked.config, MEASURED)
    assert made.tasks == math.ceil(made.slots / 4) + 1
    assert made.ingress_processes == 3 + 1
    assert made.connections == 4 * 5 + made.tasks * (7 + 1)
    assert plan(replace(DEMAND, proxylogin=2), checked.config, MEASURED).connections == made.connections + 2 * 5
    assert made.wait_p95_s <= DEMAND.wait_p95_s
    assert all(line.how for line in made.lines)
