"""A page says of each figure when and where it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.machine import this_machine
from bench.publishing import NoPlace, publish
from bench.report import Bench, Effort, Report, Section

OLD = "measured long ago"
PAGE = "".join(f"<!-- bench {name} -->\n{OLD}\n<!-- end -->\n" for name in ("machine", "one", "two"))


@dataclass(frozen=True, slots=True)
class Result:
    figure: int


async def _measure(_: Effort) -> Result:
    raise AssertionError("publishing measures nothing")


BENCHES = [
    Bench(name, Result, _measure, lambda result: Section("Bench", f"It is {result.figure}.", ()))
    for name in ("one", "two")
]


def published(page: Path, *names: str) -> list[str]:
    """What stands between the marks then, in their order."""
    page.write_text(PAGE)
    publish(Report(this_machine(), False, 1.0, {name: {"figure": 7} for name in names}), BENCHES, page)
    return [part.partition("-->\n")[2].strip() for part in page.read_text().split("<!-- end -->")][:3]


def test_a_whole_report_says_it_once_above_all(tmp_path: Path):
    machine, one, two = published(tmp_path / "page.md", "one", "two")
    assert "CPython" in machine
    assert one == two == "It is 7."


def test_a_part_says_it_above_itself_and_leaves_the_rest(tmp_path: Path):
    machine, one, two = published(tmp_path / "page.md", "two")
    assert machine == one == OLD
    assert "CPython" in two.splitlines()[0]
    assert two.endswith("\n\nIt is 7.")


def test_a_page_without_the_place_is_refused(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Nothing here\n")
    with pytest.raises(NoPlace, match="bench two"):
        publish(Report(this_machine(), False, 1.0, {"two": {"figure": 7}}), BENCHES, page)
