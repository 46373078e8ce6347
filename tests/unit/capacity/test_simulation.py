"""What a simulated system does."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields, replace

from kdcube.capacity.arrivals import Arrival
from kdcube.capacity.outcome import outcome_of, wait_curve
from kdcube.capacity.scenario import (
    BundleLoad,
    RunTimes,
    Scaling,
    Scenario,
    Senders,
    Signal,
    Slow,
    Tasks,
    checked,
    find,
    names,
    rate_at,
    read,
    text_of,
    with_times,
)
from kdcube.capacity.service_times import ServiceTimes
from kdcube.capacity.simulation import Course, Simulation
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import UserType

NO_WAIT = RunTimes(fixed_s=1e-9)
SCENARIO = Scenario(
    name="small",
    duration_s=900,
    senders=[
        Senders(user_type=UserType.PAID, users=20, bundle="a", turns_per_s=[(0, 1), (300, 5), (600, 1)]),
        Senders(
            user_type=UserType.ANONYMOUS, users=50, bundle="b", turns_per_s=[(0, 0), (600, 3)], same_conversation=0.5
        ),
    ],
    bundles={"a": BundleLoad(run=RunTimes(p50_s=1, p95_s=4)), "b": BundleLoad(run=RunTimes(fixed_s=2), concurrency=2)},
    tasks=Tasks(count=2, slots=4, start_s=30),
    scaling=Scaling(min_tasks=2, max_tasks=8, target=0.5),
    gateway={"profile": "production"},
)


def at(second: float, user: str = "ann", *, bundle: str = "a", conversation: str | None = None) -> Arrival:
    return Arrival(second, UserType.PAID, user, conversation or f"{user}-{second}", bundle)


def fixed(seconds: float, *, slots: int = 1, **changes: object) -> Scenario:
    """One task, one bundle whose turns all take the same."""
    return replace(
        SCENARIO, duration_s=100, scaling=None, gateway={"profile": "load_test"},
        bundles={"a": BundleLoad(run=RunTimes(fixed_s=seconds), concurrency=slots)},
        tasks=Tasks(count=1, slots=slots, overhead=NO_WAIT), **changes,
    )  # fmt: skip


def waits(scenario: Scenario, *sent: Arrival) -> list[float]:
    return [round(turn.wait_s or 0.0, 3) for turn in Simulation(scenario, sent=sent).run().turns]


def test_what_is_sent_is_refused_or_run_and_slots_are_never_exceeded() -> None:
    simulation = Simulation(SCENARIO)
    course = simulation.run()
    outcome = outcome_of(course)
    assert outcome.all.refused + outcome.all.started + outcome.all.unstarted == len(simulation._sent)
    assert all(turn.started_s is not None for turn in course.turns if turn.ended_s is not None)
    assert all(moment.running <= moment.slots for moment in course.moments)
    changes = Counter[str]()
    events = [(turn.started_s, 1, turn) for turn in course.turns if turn.started_s is not None]
    events += [(turn.ended_s, -1, turn) for turn in course.turns if turn.ended_s is not None]
    for _, change, turn in sorted(events, key=lambda event: event[:2]):
        changes[turn.conversation] += change
        assert changes[turn.conversation] <= 1


def test_the_same_seed_gives_the_same_course() -> None:
    assert _figures(Simulation(SCENARIO).run()) == _figures(Simulation(SCENARIO).run())
    assert _figures(Simulation(SCENARIO).run()) != _figures(Simulation(replace(SCENARIO, seed=2)).run())


def _figures(course: Course) -> list[tuple[float, float | None]]:
    return [(turn.accepted_s, turn.started_s) for turn in course.turns]


def test_turns_wait_for_slots_for_their_conversation_and_for_their_users_cap() -> None:
    assert waits(fixed(10), at(0), at(1), at(2)) == [0, 9, 18]
    assert waits(fixed(10, slots=4), at(0, conversation="c"), at(1, conversation="c"), at(2)) == [0, 9, 0]
    capped = replace(fixed(10, slots=4), gateway={"profile": "load_test", "limits": {"max_running_turns_per_user": 2}})
    assert waits(capped, at(0), at(1), at(2), at(3, "bob")) == [0, 0, 8, 0]


def test_processes_of_a_bundle_double_while_they_fill() -> None:
    scenario = replace(
        fixed(50, slots=8), bundles={"a": BundleLoad(run=RunTimes(fixed_s=50), concurrency=2, host_start_s=3)}
    )
    assert waits(scenario, *(at(0, f"user-{n}") for n in range(8))) == [0, 0, 3, 3, 6, 6, 6, 6]


def test_refusals_are_those_of_admission() -> None:
    backpressure = {
        "capacity_buffer": 0.5,
        "queue_depth_multiplier": 2,
        **dict.fromkeys([f"{kind}_pressure_threshold" for kind in ("anonymous", "registered", "paid")], 0.5),
        "hard_limit_threshold": 0.9,
    }
    limits = {"max_queue_size": 1_000, "max_live_turns_per_user": 3}
    pressed = replace(
        fixed(50, slots=10), gateway={"profile": "load_test", "limits": limits, "backpressure": backpressure}
    )
    course = Simulation(pressed, sent=[at(n, f"user-{n}") for n in range(7)]).run()
    assert (len(course.turns), course.refused) == (5, {(UserType.PAID, "backpressure"): 2})
    course = Simulation(pressed, sent=[at(n) for n in range(5)]).run()
    assert course.refused == {(UserType.PAID, "user_queue_full"): 2}
    full = replace(fixed(50), gateway={"profile": "load_test", "limits": {"max_queue_size": 1}})
    course = Simulation(full, sent=[at(n, f"user-{n}") for n in range(4)]).run()
    assert course.refused == {(UserType.PAID, "queue_full"): 2}


def test_a_rush_scales_out_and_in_again_without_ending_turns() -> None:
    rush = replace(
        SCENARIO,
        duration_s=3_600,
        senders=[Senders(bundle="a", turns_per_s=[(0, 1), (600, 1), (900, 8), (1_500, 8), (1_600, 1)])],
    )
    course = Simulation(rush).run()
    most = max(moment.desired for moment in course.moments)
    assert most > rush.tasks.count
    assert course.moments[-1].desired < most
    ended = [turn for turn in course.turns if turn.ended_s is not None]
    assert len(course.turns) - len(ended) <= course.moments[-1].running + course.moments[-1].waiting
    stays = Simulation(replace(rush, scaling=None)).run()
    assert outcome_of(stays).all.refused > 3 * outcome_of(course).all.refused


def test_a_slow_bundle_takes_the_slots_of_the_others() -> None:
    steady = replace(find("slow-bundle"), scaling=None, duration_s=2_400)
    quick = {name: replace(bundle, slow=[]) for name, bundle in steady.bundles.items()}
    slow, usual = (outcome_of(Simulation(one).run()) for one in (steady, replace(steady, bundles=quick)))
    assert usual.by_bundle["search"].p95_s < 1 < slow.by_bundle["search"].p95_s
    part = replace(SCENARIO.bundles["a"], slow=[Slow(from_s=10, to_s=20, factor=3)], run=RunTimes(fixed_s=5))
    course = Simulation(replace(fixed(5, slots=4), bundles={"a": part}), sent=[at(1), at(12), at(25)]).run()
    assert [round((turn.ended_s or 0) - turn.accepted_s) for turn in course.turns] == [5, 15, 5]


@pytest.mark.parametrize("signal", get_args(Signal))
def test_each_signal_scales(signal: Signal) -> None:
    scaling = replace(SCENARIO.scaling, signal=signal, target=0.001 if signal == "queue_utilization" else 0.5)
    course = Simulation(replace(SCENARIO, scaling=scaling)).run()
    assert max(moment.desired for moment in course.moments) > SCENARIO.tasks.count


def test_every_scenario_that_comes_with_this_can_be_read() -> None:
    assert names() == ["morning-rush", "slow-bundle"]
    for name in names():
        assert find(name).name == name


def test_the_page_has_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "capacity.md").read_text()
    for struct in (Scenario, Senders, BundleLoad, RunTimes, Slow, Tasks, Scaling):
        for field in fields(struct):
            assert re.search(rf"`{field.name}\b", page), f"{struct.__name__}.{field.name} is not in docs/capacity.md"
    for signal in get_args(Signal):
        assert f"| `{signal}` |" in page


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("slots: 16", "slots: 0"), "tasks.slots"),
        (("bundle: search", "bundle: serch"), "senders[2].bundle: serch is not under bundles"),
        (("{p50_s: 8, p95_s: 30}", "{p50_s: 8}"), "bundles.assistant.run: give p50_s and p95_s"),
        (("{p50_s: 8, p95_s: 30}", "{p50_s: 80, p95_s: 30}"), "bundles.assistant.run: p50_s must be"),
        (("count: 3", "count: 30"), "tasks.count: it must be from scaling.min_tasks"),
        (("[1200, 0.8], [2400, 6]", "[2400, 6], [1200, 0.8]"), "senders[0].turns_per_s: seconds must not fall"),
        (("duration_s: 9000", "duration_s: 600000"), "duration_s: that may be"),
        (("profile: production", "profile: produktion"), "profile"),
        (("name: morning-rush", "name: morning-rush\nsize: 3"), "size"),
        (("name: morning-rush", "name: [morning"), "no YAML"),
    ],
)  # fmt: skip
def test_a_wrong_scenario_is_refused_with_the_name_of_what_is_wrong(change: tuple[str, str], told: str) -> None:
    text = text_of("morning-rush").replace(*change, 1)
    with pytest.raises(InvalidInput) as refused:
        read(text, "rush.yaml")
    assert told in str(refused.value)


def test_measured_times_replace_those_of_the_bundles_that_were_measured() -> None:
    scenario = checked(with_times(SCENARIO, {"b": ServiceTimes.of([1, 3]), "other": ServiceTimes.fixed(9)}))
    assert scenario.bundles["b"].run.times().mean_s == 2
    assert scenario.bundles["a"] == SCENARIO.bundles["a"]
    with pytest.raises(InvalidInput, match="name them alike"):
        with_times(SCENARIO, {"other": ServiceTimes.fixed(9)})


def test_a_rate_is_straight_between_its_points() -> None:
    curve = [(10.0, 2.0), (20.0, 4.0), (20.0, 8.0)]
    assert [rate_at(curve, second) for second in (0, 10, 15, 20, 30)] == [2, 2, 3, 4, 8]


def test_a_curve_has_the_percentile_of_each_bin() -> None:
    pairs = [(0.0, 1.0), (1.0, 3.0), (12.0, 5.0), (99.9, 7.0)]
    assert wait_curve(pairs, 100, 0.5, bins=10) == [(5, 2), (15, 5), (95, 7)]
