"""The bench runs, and its report is whole. What it measures is no matter here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.__main__ import BENCHES, PAGE, ROOT
from bench.publishing import publish
from bench.report import Report


@pytest.mark.timeout(400)
def test_a_quick_run_writes_a_whole_report(tmp_path: Path) -> None:
    measured = [bench.name for bench in BENCHES if bench.needs is None]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--results", str(tmp_path), "--only", *measured],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    report = msgspec.json.decode((tmp_path / "latest.json").read_bytes(), type=Report)
    assert report.quick
    assert list(report.results) == measured
    text = (tmp_path / "latest.md").read_text()
    for bench in BENCHES:
        if bench.name in measured:
            section = bench.section(msgspec.convert(report.results[bench.name], bench.result, strict=True))
            assert f"## {section.title}\n" in text
            for table in section.tables:
                assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
    assert all((tmp_path / link).read_text().count("<svg") == 1 for link in re.findall(r"\]\((.*?\.svg)\)", text))

    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text(PAGE.read_text())
    publish(report, BENCHES, page)
    for bench in BENCHES:
        if bench.name in measured:
            assert bench.section(msgspec.convert(report.results[bench.name], bench.result)).how in page.read_text()
