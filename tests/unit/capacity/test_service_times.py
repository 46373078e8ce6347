"""Run times as distributions."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from kdcube.capacity.measured import read_measured
from kdcube.capacity.service_times import ServiceTimes
from kdcube.metrics.figures import Figures
from kdcube.metrics.picture import Buckets, Component, Distribution, Picture
from kdcube.metrics.views import combined_view
from kdcube.protocol.errors import InvalidInput
from kdcube.telemetry.instruments import WINDOWS, Instruments


def test_a_lognormal_has_the_percentiles_that_it_was_given() -> None:
    times = ServiceTimes.lognormal(8, 30)
    assert times.percentile_s(0.5) == pytest.approx(8, rel=0.01)
    assert times.percentile_s(0.95) == pytest.approx(30, rel=0.01)
    assert ServiceTimes.lognormal(3, 3).variability == pytest.approx(0, abs=1e-9)


def test_a_histogram_gives_its_exact_mean_and_its_shape(tmp_path: Path) -> None:
    random_ = random.Random(1)
    seconds = {"a@1": [random_.lognormvariate(0, 0.8) for _ in range(5_000)], "b@1": [0.25] * 100}
    instruments = Instruments()
    for bundle, values in seconds.items():
        for value in values:
            instruments.histogram("turn_run_seconds", bundle=bundle, state="completed").observe(value)
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"instances": [instruments.report()]}))

    times = read_measured(path)
    of_a, real = times["a@1"], ServiceTimes.of(seconds["a@1"])
    assert of_a.mean_s == pytest.approx(real.mean_s, rel=1e-6)
    for share in (0.5, 0.95):
        assert of_a.percentile_s(share) == pytest.approx(real.percentile_s(share), rel=0.05)
    assert of_a.variability == pytest.approx(real.variability, rel=0.15)
    assert times[""].mean_s == pytest.approx((sum(seconds["a@1"]) + 25) / 5_100, rel=1e-6)
    assert list(read_measured(path, "b@1")) == ["b@1"]


def test_what_the_metrics_service_tells_gives_the_same(tmp_path: Path) -> None:
    instruments = Instruments()
    runs = instruments.histogram("turn_run_seconds", bundle="a@1", state="completed")
    for value in (0.1, 0.5, 0.5, 3.0, 5_000.0):
        runs.observe(value)
    report = instruments.report()
    total = Figures.of(report).histograms
    windows = {window: Buckets({3: 7}) for window in WINDOWS}
    proc = Component("proc", stale=False, histograms={key: Distribution(of, windows) for key, of in total.items()})
    combined = combined_view(Picture(at_ms=1, components={"proc": proc}, queue=None))
    for name, document in (("report", report), ("combined", combined)):
        (tmp_path / name).write_text(json.dumps(document))
    assert read_measured(tmp_path / "combined") == read_measured(tmp_path / "report")


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"name": "turn_run_seconds", "buckets": {"x": 1}, "sum_s": 1}'])
def test_a_file_without_turns_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=path.name):
        read_measured(path)


def test_no_times_are_no_distribution() -> None:
    for values in ([], [-1.0], [float("inf")]):
        with pytest.raises(ValueError):
            ServiceTimes.of(values)
