"""What a process counts, and what becomes of it when several are added up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kdcube.telemetry.catalogue import Kind, Metric, catalogue
from kdcube.telemetry.instruments import BOUNDS, SCHEMA, WINDOWS, Instruments
from kdcube.telemetry.percentiles import merged, percentile_s

METRICS = catalogue(
    Metric("refused", Kind.COUNTER, "Refusals.", ("reason",)),
    Metric("c", Kind.COUNTER, "A counter."),
    Metric("h", Kind.HISTOGRAM, "Times."),
    Metric("route_seconds", Kind.HISTOGRAM, "Times.", ("route",), "seconds"),
    Metric("open", Kind.GAUGE, "What is open."),
    Metric("of", Kind.GAUGE, "What each has.", ("bundle",)),
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def instruments(clock: Clock) -> Instruments:
    return Instruments(monotonic=clock, wall=clock, metrics=METRICS)


def test_a_report_says_totals_and_values(instruments: Instruments) -> None:
    instruments.counter("refused", reason="memory").add(3)
    instruments.counter("refused", reason="memory").add()
    instruments.histogram("route_seconds", route="/a").observe(0.0005)
    instruments.gauge("open", lambda: 7)
    report = instruments.report()
    assert (report["schema"], report["started_ms"]) == (SCHEMA, 1_000_000)
    (counter,) = report["counters"]
    assert (counter["name"], counter["labels"], counter["total"]) == ("refused", {"reason": "memory"}, 4)
    (histogram,) = report["histograms"]
    assert (histogram["buckets"], histogram["sum_s"]) == ({"0": 1}, 0.0005)
    assert report["gauges"] == [{"name": "open", "labels": {}, "value": 7}]


def test_windows_slide(instruments: Instruments, clock: Clock) -> None:
    counter, histogram = instruments.counter("c"), instruments.histogram("h")
    beginning = clock.now
    for second in range(0, 7200, 5):
        clock.now = beginning + second
        counter.add(5)
        histogram.observe(0.01)
        report = instruments.report()
        windows = report["counters"][0]["windows"]
        for name, length_s in (("1m", 60), ("15m", 900), ("1h", 3600)):
            covered = report["windows_s"][name]
            assert windows[name] == covered + (5 if covered == second else 0)
            assert sum(report["histograms"][0]["windows"][name].values()) == windows[name] / 5
            assert covered <= length_s
            assert covered >= min(second, length_s * 0.91)
    assert report["counters"][0]["total"] == 7200


def test_what_is_silent_leaves_the_window(instruments: Instruments, clock: Clock) -> None:
    instruments.counter("c").add()
    for _ in range(13):
        instruments.report()
        clock.now += 5
    windows = instruments.report()["counters"][0]["windows"]
    assert windows == {"1m": 0, "15m": 1, "1h": 1}


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_percentiles_of_a_sum_are_those_of_all_observations(share: float) -> None:
    dice = random.Random(7)
    processes = [Instruments(metrics=METRICS) for _ in range(4)]
    observed: list[float] = []
    for number, process in enumerate(processes):
        for _ in range(500):  # of different speeds, so that an average of percentiles would be wrong
            value = dice.lognormvariate(-4 + number, 0.5)
            observed.append(value)
            process.histogram("h").observe(value)
    buckets = merged(process.report()["histograms"][0]["buckets"] for process in processes)
    assert sum(buckets.values()) == 2000
    exact = sorted(observed)[int(len(observed) * share)]
    told = percentile_s(buckets, share)
    assert told is not None
    assert exact / 1.19 <= told <= exact * 1.19


def test_percentiles_at_the_ends() -> None:
    assert percentile_s({}, 0.5) is None
    assert percentile_s({0: 1}, 0.5) == BOUNDS[0] / 2
    assert percentile_s({len(BOUNDS): 1}, 0.5) == BOUNDS[-1]
    instruments = Instruments(metrics=METRICS)
    instruments.histogram("h").observe(1e9)
    instruments.histogram("h").observe(0.0)
    assert instruments.report()["histograms"][0]["buckets"] == {"0": 1, str(len(BOUNDS)): 1}


def test_what_is_kept_elsewhere_is_read_for_each_report(instruments: Instruments, clock: Clock) -> None:
    kept = {"total": 3.5}
    instruments.counted("c", lambda: kept["total"])
    instruments.gauges("of", lambda: [({"bundle": "a"}, 1), ({"bundle": "b"}, 2)])
    instruments.gauge("open", lambda: None)
    report = instruments.report()
    assert report["counters"] == [{"name": "c", "labels": {}, "total": 3.5, "windows": dict.fromkeys(WINDOWS, 3.5)}]
    assert [(gauge["labels"]["bundle"], gauge["value"]) for gauge in report["gauges"]] == [("a", 1), ("b", 2)]
    kept["total"], clock.now = 5.0, clock.now + 5
    assert instruments.report()["counters"][0]["windows"]["1m"] == 5.0
    assert instruments.totals()["counters"] == [{"name": "c", "labels": {}, "total": 5.0}]


@pytest.mark.parametrize(
    "use",
    [
        lambda instruments: instruments.counter("unheard_of"),
        lambda instruments: instruments.histogram("c"),
        lambda instruments: instruments.counter("c", user="u1"),
        lambda instruments: instruments.counter("refused"),
        lambda instruments: instruments.gauge("c", lambda: 1),
        lambda instruments: instruments.gauges("open", list),
    ],
)
def test_what_is_not_in_the_catalogue_is_refused(
    instruments: Instruments, use: Callable[[Instruments], object]
) -> None:
    with pytest.raises(ValueError, match=r"catalogue|labels"):
        use(instruments)
