"""Runs one bench by itself: ``python -m bench.NAME [--quick]`` prints its section."""

from __future__ import annotations

import argparse

import uvloop
from bench.markdown import section_text
from bench.report import Bench, Effort

from kdcube.telemetry.logging import configure


def run_alone(bench: Bench) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{bench.name}")
    parser.add_argument("--quick", action="store_true", help="rough figures, soon")
    configure("bench", bench.name, "warning")
    effort = Effort(parser.parse_args().quick)
    result = uvloop.run(bench.measure(effort))
    print(section_text(bench.section(result)))
