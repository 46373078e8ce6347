"""A soak of some seconds: it measures, and it finds what was left on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.soak.leaks import LEAKS

ROOT = Path(__file__).parents[2]


def soak(results: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report."""
    command = [sys.executable, "-m", "bench.soak", "--rate", "15", "--ramp", "3", "--seed", "7"]
    done = subprocess.run(
        [*command, "--results", str(results), *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (results / "soak.json").exists(), done.stdout[-2000:] + done.stderr[-4000:]
    assert (results / "soak.md").read_text().removeprefix("# Soak\n\n").strip() in done.stdout
    return done.returncode, json.loads((results / "soak.json").read_text())


def failed(report: dict[str, Any]) -> set[str]:
    return {check["what"] for check in report["verdict"]["checks"] if not check["passed"]}


@pytest.mark.timeout(400)
def test_a_system_that_is_killed_leaves_nothing_behind(tmp_path: Path):
    code, report = soak(tmp_path, "--minutes", "0.3", "--faults-every", "4")
    record = report["record"]
    assert failed(report) - {"processes whose memory grows"} == set(), report["verdict"]  # needs more time than this
    assert code == (0 if report["passed"] else 1)
    assert record["struck"], "nothing was killed"
    assert record["tally"]["checked"] == record["tally"]["accepted"] > 100
    assert record["tally"]["did"]["streams resumed"] > 10
    assert all(record["end"]["processes"][name] for name in ("ingress-0", "ingress-1", "proc-0", "proc-1", "valkey"))


@pytest.mark.timeout(400)
def test_it_finds_what_is_left_behind(tmp_path: Path):
    code, report = soak(tmp_path, "--minutes", "0.5", "--faults-every", "1000", "--leak", *LEAKS)
    assert code == 1
    assert not report["record"]["tally"]["wrong"]
    assert failed(report) == {
        "processes whose memory grows",
        "more descriptors than in the beginning",
        "keys in Valkey without a reason or a due end",
        "more connections of Valkey than in the beginning",
        "rows in `turns`",
    }
    grown = [growth["process"] for growth in report["verdict"]["growth"] if not _within(growth)]
    assert "bundle host" in grown


def _within(growth: dict[str, Any]) -> bool:
    slope, limit = growth["slope_bytes_s"], growth["limit_bytes_s"]
    return slope is None or limit is None or slope <= limit
