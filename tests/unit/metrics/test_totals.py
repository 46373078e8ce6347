"""Totals never go back, whatever becomes of the processes; windows are right from the first reading on."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kdcube.metrics.totals import FORGET_S, Totals
from kdcube.telemetry.catalogue import Kind, Metric, catalogue
from kdcube.telemetry.instruments import WINDOWS, Instruments

METRICS = catalogue(
    Metric("seen", Kind.COUNTER, "Seen."), Metric("took_seconds", Kind.HISTOGRAM, "Took.", ("route",), "seconds")
)
SEEN, TOOK = ("seen", ()), ("took_seconds", (("route", "/a"),))


class World:
    """A clock, and processes that count."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def process(self) -> Instruments:
        return Instruments(monotonic=lambda: self.now, wall=lambda: self.now, metrics=METRICS)


def report_of(process: Instruments) -> dict[str, Any]:
    return json.loads(json.dumps(process.report()))


def work(process: Instruments, times: int, seconds: float = 0.1) -> None:
    process.counter("seen").add(times)
    for _ in range(times):
        process.histogram("took_seconds", route="/a").observe(seconds)


def windows(totals: Totals) -> dict[str, float]:
    counted, observed = totals.counters()[SEEN], totals.histograms()[TOOK]
    assert {name: buckets.count for name, buckets in observed.windows.items()} == counted.windows
    assert observed.total.count == counted.total
    return dict(counted.windows)


def total(totals: Totals) -> float:
    return totals.counters()[SEEN].total


def test_processes_are_added_and_a_dead_one_leaves_what_it_counted():
    world = World()
    totals, first, second = Totals(world.now), world.process(), world.process()
    work(first, 3)
    work(second, 4)
    totals.hear({"a": report_of(first), "b": report_of(second)}, world.now)
    assert total(totals) == 7
    world.now += 5
    work(first, 2)
    totals.hear({"a": report_of(first)}, world.now)
    assert total(totals) == 9
    assert windows(totals) == dict.fromkeys(WINDOWS, 9)


def test_a_process_that_starts_again_begins_at_zero_and_adds_all_of_it():
    world = World()
    totals, first = Totals(world.now), world.process()
    work(first, 100)
    totals.hear({"a": report_of(first)}, world.now)
    world.now += 5
    again = world.process()
    work(again, 1)
    totals.hear({"a": report_of(again)}, world.now)
    assert total(totals) == 101


def test_two_processes_by_one_name_do_not_count_again_and_again():
    world = World()
    totals, first = Totals(world.now), world.process()
    world.now += 1
    second = world.process()
    for _ in range(4):
        for process in (first, second):
            world.now += 5
            work(process, 1)
            totals.hear({"same": report_of(process)}, world.now)
    assert total(totals) == 8


def test_a_report_that_was_read_before_adds_nothing():
    world = World()
    totals, process = Totals(world.now), world.process()
    work(process, 5)
    report = report_of(process)
    for _ in range(3):
        totals.hear({"a": report}, world.now)
        world.now += 1
    assert total(totals) == 5


def test_the_windows_of_a_process_are_taken_over_and_leave_as_time_passes():
    """The service starts while a process has run for long."""
    world = World()
    process = world.process()
    for _ in range(24 * 60):
        world.now += 5
        work(process, 1)
        process.report()
    report = report_of(process)
    totals = Totals(world.now)
    totals.hear({"a": report}, world.now)
    taken = {name: report["counters"][0]["windows"][name] for name in WINDOWS}
    assert windows(totals) == taken
    assert total(totals) == 24 * 60
    before = taken["1m"]
    for _ in range(12):
        world.now += 5
        process.report()
        totals.hear({"a": report_of(process)}, world.now)
        assert windows(totals)["1m"] <= before
        before = windows(totals)["1m"]
    assert before == 0
    assert 0 < windows(totals)["1h"] < taken["1h"]


def test_what_was_counted_while_nobody_listened_is_not_of_this_minute():
    world = World()
    totals, process = Totals(world.now), world.process()
    work(process, 1)
    totals.hear({"a": report_of(process)}, world.now)
    for _ in range(12 * 60):
        world.now += 5
        work(process, 2)
        process.report()
    report = report_of(process)
    totals.hear({"a": report}, world.now)
    assert total(totals) == 1 + 12 * 60 * 2
    assert windows(totals)["1m"] == report["counters"][0]["windows"]["1m"] < 30
    assert windows(totals)["15m"] == report["counters"][0]["windows"]["15m"] < 400


def test_windows_slide_over_silence():
    world = World()
    totals, process = Totals(world.now), world.process()
    totals.hear({"a": report_of(process)}, world.now)
    world.now += 5
    work(process, 10)
    totals.hear({"a": report_of(process)}, world.now)
    world.now += 70
    totals.hear({}, world.now)
    assert windows(totals) == {"1m": 0, "15m": 10, "1h": 10}
    world.now += 4000
    totals.hear({}, world.now)
    assert windows(totals) == {"1m": 0, "15m": 0, "1h": 0}
    assert total(totals) == 10


def test_lives_are_forgotten_in_the_end():
    world = World()
    totals = Totals(world.now)
    for number in range(20):
        totals.hear({f"task-{number}": report_of(world.process())}, world.now)
        world.now += FORGET_S / 10
    assert len(totals._lives) <= 11  # pyright: ignore[reportPrivateUsage]


steps = st.lists(
    st.tuples(st.sampled_from(["work", "die", "mute"]), st.integers(0, 3), st.integers(1, 40)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_whatever_happens_totals_are_what_was_reported_and_windows_never_exceed_them(history: list[Any]):
    """The oracle keeps the last report of every life."""
    world = World()
    totals = Totals(world.now)
    processes = {number: world.process() for number in range(4)}
    reported: dict[int, int] = {}
    lives = dict.fromkeys(range(4), 0)
    before = 0.0
    for what, number, amount in history:
        world.now += 5
        if what == "die":
            processes[number] = world.process()
            lives[number] += 1
            world.now += 1
        else:
            work(processes[number], amount % 4)
        reports = {}
        for other, process in processes.items():
            process.report()
            if what != "mute" or other != number:
                reports[str(other)] = report = report_of(process)
                count = sum(entry["total"] for entry in report["counters"])
                reported[other * 1000 + lives[other]] = count
        totals.hear(reports, world.now)
        if TOOK in totals.histograms():
            assert total(totals) == sum(reported.values())
            assert total(totals) >= before
            before = total(totals)
            slid = windows(totals)
            assert 0 <= slid["1m"] <= slid["15m"] <= slid["1h"] <= before
