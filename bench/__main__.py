"""``python -m bench``: measures everything and writes a report in JSON and Markdown with plots to bench/results/.

Figures for people; they pass or fail nothing, but a bench that sees the system do wrong stops. ``--publish`` puts the
last report into docs/performance.md instead of measuring. Each bench is a program too (``python -m bench.NAME``).
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import uvloop
from bench.every import BENCHES
from bench.machine import this_machine
from bench.markdown import machine_text, section_text
from bench.plots import draw
from bench.publishing import publish
from bench.report import Bench, Effort, Report

from kdcube.telemetry.logging import configure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"


def main() -> int:
    names = [bench.name for bench in BENCHES]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="rough figures within a minute")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of reports")
    parser.add_argument("--publish", action="store_true", help="put the last report into a page instead of measuring")
    parser.add_argument("--page", type=Path, default=PAGE, help="that page")
    arguments = parser.parse_args()
    latest = arguments.results / "latest.json"
    if arguments.publish:
        publish(msgspec.json.decode(latest.read_bytes(), type=Report), BENCHES, arguments.page)
        return 0
    configure("bench", "bench", "warning")
    chosen = [bench for bench in BENCHES if bench.name in arguments.only]
    for report in measure(chosen, Effort(arguments.quick)):
        write(report, arguments.results)
    print(f"\nthe report: {latest.with_suffix('.md')}")
    return 0


def measure(benches: Sequence[Bench], effort: Effort) -> Iterator[Report]:
    """Runs them one after the other and prints each section; the report of all so far after each of them."""
    machine, began = this_machine(), time.monotonic()
    results: dict[str, object] = {}
    for bench in benches:
        if bench.needs and shutil.which(bench.needs) is None:
            print(f"\n{bench.name} is left out: there is no {bench.needs}")
            continue
        result = uvloop.run(bench.measure(effort))
        gc.unfreeze()
        results[bench.name] = msgspec.to_builtins(result)
        section = bench.section(result)
        print(f"\n## {section.title}\n\n{section_text(section)}", flush=True)
        yield Report(machine, effort.quick, time.monotonic() - began, results)


def write(report: Report, folder: Path) -> None:
    """NAME.json, NAME.md and charts under the moment's name, and copies of the texts as ``latest``."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# Bench", machine_text(report.machine, report.quick, report.took_s)]
    for bench in BENCHES:
        if bench.name in report.results:
            section = bench.section(msgspec.convert(report.results[bench.name], bench.result))
            parts.append(f"## {section.title}\n\n{section_text(section, figures='figures')}")
            for chart in section.charts:
                draw(chart, folder / "figures")
    name = report.machine.began[:16].replace(":", "")
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    for suffix in ("json", "md"):
        shutil.copyfile(folder / f"{name}.{suffix}", folder / f"latest.{suffix}")


if __name__ == "__main__":
    sys.exit(main())
