"""The bench runs, and its report is whole. What it measures is no matter here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.every import BENCHES
from bench.markdown import section_text
from bench.report import Report

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"


def run(*args: str) -> None:
    """In a process of its own: what draws the plots changes how Python imports."""
    command = [sys.executable, "-m", "bench", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.timeout(400)
def test_a_quick_run_writes_a_whole_report_and_publishes_it(tmp_path: Path) -> None:
    measured = [bench for bench in BENCHES if bench.needs is None]
    run("--quick", "--results", str(tmp_path), "--only", *(bench.name for bench in measured))

    report = msgspec.json.decode((tmp_path / "latest.json").read_bytes(), type=Report)
    assert report.quick
    assert list(report.results) == [bench.name for bench in measured]
    sections = [bench.section(msgspec.convert(report.results[bench.name], bench.result)) for bench in measured]
    text = (tmp_path / "latest.md").read_text()
    for section in sections:
        assert f"## {section.title}\n\n{section_text(section, figures='figures')}" in text
        for table in section.tables:
            assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
    drawn = re.findall(r"\]\((.*?\.svg)\)", text)
    assert drawn and all("</svg>" in (tmp_path / link).read_text() for link in drawn)

    page = tmp_path / "page" / "performance.md"
    page.parent.mkdir()
    page.write_text(PAGE.read_text())
    run("--publish", "--results", str(tmp_path), "--page", str(page))
    for section in sections:
        assert section_text(section, figures="figures") in page.read_text()
    assert all((page.parent / link).exists() for link in drawn)
