"""`kdcube capacity`, as somebody at a terminal sees it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdcube.capacity.scenario import text_of
from kdcube.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "capacity.md"
LOAD = ("--turns-per-s", "10", "--run-p50-s", "2", "--run-p95-s", "6")
SMALL = """
name: small
duration_s: 600
senders: [{bundle: a, turns_per_s: [[0, 1], [300, 6]]}]
bundles: {a: {run: {fixed_s: 2}}}
tasks: {count: 2, slots: 4}
scaling: {min_tasks: 2, max_tasks: 6}
"""


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def capacity(monkeypatch, capsys):
    def run(*args: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["kdcube", "capacity", *args])
        try:
            code = main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def test_the_page_shows_what_a_plan_says(capacity) -> None:
    shown = re.search(r"```console\n\$ kdcube capacity (.*?)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown
    ran = capacity(*shlex.split(shown[1]))
    assert ran.code == 0
    assert [line.rstrip() for line in ran.out.splitlines()] == shown[2].splitlines()


def test_a_plan_as_json(capacity) -> None:
    made = json.loads(capacity("plan", *LOAD, "--streams", "25000", "--json").out)
    assert made["tasks"] == 3
    assert made["ingress_processes"] == 4
    assert {"slots", "connections", "wait_p95_s", "lines"} <= made.keys()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("plan", "--turns-per-s", "10"), "give --run-p50-s and --run-p95-s, or --measured"),
        (("plan", *LOAD[:4], "--run-p95-s", "1"), "--run-p95-s: p50_s must be above 0 and p95_s not below it"),
        (("simulate", "evening"), "there is no scenario evening; give one of morning-rush, slow-bundle, or a file"),
        (("simulate", "no.yaml"), "cannot read no.yaml"),
        (("simulate", "morning-rush", "--tasks", "30", "--fixed", "--target", "2"), "this is not scaled"),
        (("scenario", "evening"), "there is no scenario evening"),
    ],
)
def test_bad_input_is_told_in_a_line(capacity, args: tuple[str, ...], told: str) -> None:
    ran = capacity(*args)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert told in ran.err


def test_a_scenario_is_simulated_as_the_command_line_changes_it(capacity, small: str) -> None:
    ran = capacity("simulate", small)
    assert ran.code == 0
    assert "tasks at most" in ran.out
    usual = json.loads(capacity("simulate", small, "--json").out)
    stays = json.loads(capacity("simulate", small, "--fixed", "--json").out)
    more = json.loads(capacity("simulate", small, "--tasks", "6", "--json").out)
    by_load = json.loads(capacity("simulate", small, "--signal", "load_per_slot", "--target", "0.8", "--json").out)
    other = json.loads(capacity("simulate", small, "--seed", "9", "--json").out)
    assert stays["tasks_most"] == 2 < usual["tasks_most"]
    assert stays["all"]["p95_s"] > usual["all"]["p95_s"] > more["all"]["p95_s"]
    assert usual != by_load and usual != other


def test_scenarios_are_listed_and_printed(capacity) -> None:
    assert capacity("scenario").out == "morning-rush\nslow-bundle\n"
    assert capacity("scenario", "slow-bundle").out == text_of("slow-bundle")


def test_plots_and_figures_are_written(tmp_path: Path, small: str) -> None:
    """In a process of its own: what draws the plots changes how Python imports."""
    out = tmp_path / "new" / "out"
    command = [sys.executable, "-m", "kdcube.cli.main", "capacity", "simulate", small, "--out", str(out), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads((out / "outcome.json").read_text()) == json.loads(ran.stdout)
    for name in ("waits", "turns", "tasks"):
        svg = (out / f"{name}.svg").read_text()
        assert svg.rstrip().endswith("</svg>") and "<script" not in svg
