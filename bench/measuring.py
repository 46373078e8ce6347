"""What measuring costs at full load: the same processes, with it and without it by turns."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.alone import run_alone
from bench.client import Kind, Tally, open_users
from bench.report import Bench, Effort, Section, Spread, Table, Target, digits, percents, spread
from bench.system import System, running_system
from bench.turns import USERS, turn_costs

from kdcube.gateway.traffic import Traffic
from kdcube.ingress.streams.figures import StreamFigures
from kdcube.proc.turn_figures import TurnFigures
from kdcube.protocol.turns import TurnState, UserType
from kdcube.telemetry.instruments import Instruments

COMPONENTS = ("ingress", "proc")
KIND = Kind(20)
_SWITCHABLE = Path(__file__).parent / "switchable"
_REPORT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Measuring:
    with_us: dict[str, Spread]
    """CPU microseconds a turn by component, while it measures."""
    without_us: dict[str, Spread]
    added: dict[str, Spread]
    """What measuring adds, as a share of the CPU time without it: of each pair of neighbouring rounds."""
    calls_us: dict[str, float]
    """CPU microseconds of what a turn calls of it, called alone."""
    report_ms: float
    """CPU milliseconds of one report of an ingress or proc that has 150 counters and 80 histograms."""


async def measure(effort: Effort) -> Measuring:
    costs: dict[bool, list[Mapping[str, float]]] = {True: [], False: []}
    tally = Tally()
    with _switchable_python() as python, running_system(python=python) as system:
        users = await open_users(system.ingress, USERS)
        await turn_costs(users, KIND, effort.of(3.0, 0.5), system.meter(), tally)  # warm
        gc.freeze()
        for number in range(effort.of(12, 1)):
            for measured in (number % 2 == 0, number % 2 == 1):
                _switch(system, on=measured)
                counted = _counted(system)
                costs[measured].append(await turn_costs(users, KIND, effort.of(5.0, 0.5), system.meter(), tally))
                if (_counted(system) > counted) is not measured:
                    raise NotSwitched
        for user in users:
            user.close()
    pairs = list(zip(costs[True], costs[False], strict=True))
    return Measuring(
        {part: spread(one[part] for one in costs[True]) for part in COMPONENTS},
        {part: spread(one[part] for one in costs[False]) for part in COMPONENTS},
        {part: spread(measured[part] / bare[part] - 1 for measured, bare in pairs) for part in COMPONENTS},
        {part: _alone_us(calls, effort.of(20_000, 200)) for part, calls in _calls_of_a_turn().items()},
        _report_ms(effort.of(200, 5)),
    )


class NotSwitched(RuntimeError):
    """Proc measured when it should not, or did not when it should."""


def _counted(system: System) -> float:
    """How many turns proc says that it has started."""
    with urllib.request.urlopen(f"{system.proc_internal}/metrics") as answer:  # noqa: S310 - a port of this machine
        text: str = answer.read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("kdcube_attempts_total"))


def _switch(system: System, *, on: bool) -> None:
    for component in COMPONENTS:
        for pid in system.meter().processes[component]:
            os.kill(pid, signal.SIGUSR2 if on else signal.SIGUSR1)


def _calls_of_a_turn() -> Mapping[str, Callable[[], None]]:
    """What ingress and proc call for one turn, whose stream was written in as many pieces as it has deltas."""
    instruments = Instruments()
    traffic, streams, turns = Traffic(instruments), StreamFigures(instruments), TurnFigures(instruments)
    postgres = instruments.histogram("postgres_call_seconds")

    def ingress() -> None:
        traffic.answered("POST", "/sse/chat", 202, 0.005)
        instruments.counter("admissions", outcome="admitted", user_type=UserType.ANONYMOUS).add()
        postgres.observe(0.002)
        for _ in range(KIND.deltas):
            streams.events.add()
            streams.bytes.add(200)

    def proc() -> None:
        turns.claimed(UserType.ANONYMOUS)
        turns.started("bench", UserType.ANONYMOUS, 1, 20)
        turns.spoke("bench", 0.01)
        turns.ended("bench", TurnState.COMPLETED, 20)
        for _ in range(3):
            postgres.observe(0.002)

    return {"ingress": ingress, "proc": proc}


def _alone_us(call: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times * 1e6


def _report_ms(times: int) -> float:
    instruments = Instruments()
    for number in range(150):
        instruments.counter("hosts_lost", bundle=f"bundle {number}", reason="exit").add()
    for number in range(80):
        histogram = instruments.histogram("turn_first_output_seconds", bundle=f"bundle {number}")
        for power in range(12):
            histogram.observe(0.001 * 2**power)
    return _alone_us(instruments.report, times) / 1000


@contextmanager
def _switchable_python() -> Generator[str]:
    """An interpreter with the packages of this one, which ``switchable/sitecustomize.py`` prepares at its start."""
    own = Path(sys.prefix)
    with tempfile.TemporaryDirectory(prefix="kdcube-bench-python-") as folder:
        there = Path(folder)
        packages = there / Path(sysconfig.get_path("purelib")).relative_to(own)
        packages.mkdir(parents=True)
        (there / "bin").mkdir()
        python = there / "bin" / "python"
        python.symlink_to((own / "bin" / "python").resolve())
        shutil.copyfile(own / "pyvenv.cfg", there / "pyvenv.cfg")
        (packages / "own.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        shutil.copyfile(_SWITCHABLE / "sitecustomize.py", packages / "sitecustomize.py")
        yield str(python)


def section(result: Measuring) -> Section:
    rows = [
        [
            part,
            str(result.with_us[part]),
            str(result.without_us[part]),
            percents(result.added[part]),
            f"{digits(result.calls_us[part])} ({result.calls_us[part] / result.without_us[part].median * 100:.1f} %)",
        ]
        for part in COMPONENTS
    ]
    return Section(
        title="Measuring",
        how=(
            f"{USERS} users in a closed loop, turns of {KIND.deltas} deltas, at full load. A signal turns counting, "
            "timing and reporting off in the running processes of ingress and proc, and on again, round by round, so "
            "that neighbours differ in nothing else; what stays without it is an empty call for each figure. What it "
            "adds is the median of the differences of neighbouring rounds, with their range: where that spans zero, "
            "the cost is within the noise, and what its calls take alone says more. One report, every "
            f"{_REPORT_EVERY_S:.0f} s, takes {digits(result.report_ms)} ms of CPU time with 150 counters and 80 "
            "histograms."
        ),
        tables=(Table(("CPU µs a turn", "with", "without", "measuring adds", "its calls alone"), rows),),
        targets=tuple(
            Target(f"what measuring adds to {part}", 2, result.added[part].median * 100, "%") for part in COMPONENTS
        ),
    )


BENCH = Bench("measuring", Measuring, measure, section)

if __name__ == "__main__":
    run_alone(BENCH)
