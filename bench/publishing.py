"""Puts a report's tables between their marks in docs/performance.md, and its charts beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from bench.markdown import machine_text, section_text
from bench.plots import draw
from bench.report import Bench, Report

_FIGURES = "figures"


class NoPlace(ValueError):
    """The page has no marks for a bench."""


def publish(report: Report, benches: Sequence[Bench], page: Path) -> None:
    """Replaces what is between ``<!-- bench NAME -->`` and ``<!-- end -->`` for each bench of the report.

    When and where it was measured stands above all of them, or above each of a report that lacks some.
    """
    text, measured = page.read_text(), machine_text(report.machine, report.quick, report.took_s)
    whole = report.results.keys() >= {bench.name for bench in benches}
    if whole:
        text = _filled(text, "machine", measured)
    for bench in benches:
        if bench.name in report.results:
            section = bench.section(msgspec.convert(report.results[bench.name], bench.result))
            content = section_text(section, figures=_FIGURES)
            text = _filled(text, bench.name, content if whole else f"{measured}\n\n{content}")
            for chart in section.charts:
                draw(chart, page.parent / _FIGURES)
    page.write_text(text)


def _filled(text: str, name: str, content: str) -> str:
    marked = re.compile(rf"(<!-- bench {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    filled, count = marked.subn(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if count != 1:
        raise NoPlace(f"the page needs <!-- bench {name} --> and <!-- end --> once, it has them {count} times")
    return filled
