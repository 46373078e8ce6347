"""``python -m bench.soak``: hours of use in minutes, and whether anything is left of it.

It starts a system of its own and loads it at 60 % of what the machine carries: users who come and go, streams that are
cut and resumed, slow readers, cancels, steers, deleted conversations, and random crashes of every part. In the end
everything must be as it was in the beginning, and every accepted turn must have ended once. Prints a table, writes
JSON and Markdown; exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop
from bench.machine import this_machine
from bench.report import Machine
from bench.soak.judging import Verdict, judge
from bench.soak.leaks import LEAKS
from bench.soak.report import text
from bench.soak.run import Plan, Record, soak


@dataclass(frozen=True, slots=True)
class Written:
    """What the JSON file holds."""

    passed: bool
    machine: Machine
    verdict: Verdict
    record: Record


RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="of load, without the ramp and the end")
    parser.add_argument("--rate", type=float, help="messages/s, instead of 60 %% of what the machine carries")
    parser.add_argument("--ramp", type=float, default=45.0, metavar="SECONDS", help="of warming up at full load")
    parser.add_argument("--seed", type=int, help="of all random choices; the one that is printed repeats them")
    parser.add_argument(
        "--faults-every", type=float, default=25.0, metavar="SECONDS", help="the mean pause between them"
    )
    parser.add_argument("--leak", nargs="+", choices=LEAKS, default=(), help="leak on purpose: the soak must fail")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of reports")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    print(f"--seed {seed}", flush=True)
    machine = this_machine()
    plan = Plan(
        minutes=arguments.minutes,
        seed=seed,
        rate_per_s=arguments.rate,
        ramp_s=arguments.ramp,
        fault_pause_s=arguments.faults_every,
        sample_every_s=min(5.0, arguments.minutes * 60 / 20),
        settle_s=max(20.0, min(60.0, arguments.minutes * 60)),
        leaks=frozenset(arguments.leak),
    )
    record = uvloop.run(soak(plan))
    verdict = judge(record)
    report = text(record, verdict, machine)
    print(f"\n{report}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "soak.md").write_text(f"# Soak\n\n{report}\n")
    (arguments.results / "soak.json").write_bytes(
        msgspec.json.encode(Written(verdict.passed, machine, verdict, record))
    )
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
