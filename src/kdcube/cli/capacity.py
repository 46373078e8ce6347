"""``kdcube capacity``: how much a load takes, and what happens when it comes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
from cyclopts import Parameter
from cyclopts.types import ExistingFile
from cyclopts.validators import Number
from msgspec.structs import replace

from kdcube.capacity import scenario as scenarios
from kdcube.capacity.costs import MEASURED, read_costs
from kdcube.capacity.measured import read_measured
from kdcube.capacity.outcome import Outcome, Waits, outcome_of
from kdcube.capacity.planning import Demand
from kdcube.capacity.planning import plan as make_plan
from kdcube.capacity.scenario import Scenario, Signal
from kdcube.capacity.service_times import ServiceTimes
from kdcube.capacity.simulation import Course, Simulation
from kdcube.cli.output import table
from kdcube.config.gateway import GatewayConfig, Invalid, check_gateway
from kdcube.protocol.errors import InvalidInput

_Positive: TypeAlias = Annotated[float, Parameter(validator=Number(gt=0))]
_NotBelowZero: TypeAlias = Annotated[int, Parameter(validator=Number(gte=0))]
_Tasks: TypeAlias = Annotated[int, Parameter(validator=Number(gte=1, lte=1000))]
_Flag: TypeAlias = Annotated[bool, Parameter(negative="")]


def plan(
    *,
    turns_per_s: _Positive,
    run_p50_s: _Positive | None = None,
    run_p95_s: _Positive | None = None,
    measured: ExistingFile | None = None,
    bundle: str | None = None,
    wait_p95_s: _Positive = 2.0,
    streams: _NotBelowZero = 0,
    deltas: _Positive = 200.0,
    slots: _Tasks = 16,
    spare: _NotBelowZero = 1,
    proxylogin: _NotBelowZero = 0,
    burstiness: Annotated[float, Parameter(validator=Number(gte=0))] = 1.0,
    gateway: ExistingFile | None = None,
    costs: ExistingFile | None = None,
    json: _Flag = False,
) -> None:
    """How many tasks, slots, connections and cores a load takes.

    Parameters
    ----------
    turns_per_s
        Messages a second at the peak.
    run_p50_s
        How long half of the turns run at most. With --run-p95-s, instead of --measured.
    run_p95_s
        How long 95 % of the turns run at most.
    measured
        A JSON file with the histograms of a running system, as the metrics service gives them.
    bundle
        Of those in --measured, the turns of this bundle only.
    wait_p95_s
        How long 95 % of the turns may wait at most.
    streams
        Open streams at the peak.
    deltas
        Pieces of text that a turn says.
    slots
        Turns at once in one task of proc.
    spare
        Tasks of each service that may be missing at the peak.
    proxylogin
        Processes of proxylogin, where people sign in through it.
    burstiness
        1 for users who do not know of each other; above it where messages come together.
    gateway
        A GATEWAY_CONFIG_JSON; by default that of the profile production.
    costs
        A report of the bench (bench/results/latest.json), for CPU times on your machine.
    json
        Print it as JSON.
    """
    demand = Demand(
        turns_per_s=turns_per_s,
        run=_run(run_p50_s, run_p95_s, measured, bundle),
        wait_p95_s=wait_p95_s,
        streams=streams,
        deltas=deltas,
        arrivals=burstiness,
        slots=slots,
        spare=spare,
        proxylogin=proxylogin,
    )
    made = make_plan(demand, _gateway(gateway), MEASURED if costs is None else read_costs(costs))
    if json:
        _print_json(made)
    else:
        table(("what", "value", "how"), ((line.what, line.value, line.how) for line in made.lines))


def simulate(
    scenario: str,
    /,
    *,
    out: Path | None = None,
    measured: ExistingFile | None = None,
    tasks: _Tasks | None = None,
    signal: Signal | None = None,
    target: _Positive | None = None,
    fixed: _Flag = False,
    seed: int | None = None,
    json: _Flag = False,
) -> None:
    """What happens over time: waits, refusals, and what the scaling policy does.

    Parameters
    ----------
    scenario
        The name of one that comes with this, or a file; `kdcube capacity scenario` shows them.
    out
        A folder for waits.svg, turns.svg, tasks.svg and outcome.json; it is made.
    measured
        A JSON file with the histograms of a running system, for the run times of those bundles.
    tasks
        Tasks of proc at the beginning, and the least, instead of the scenario's.
    signal
        What is scaled by.
    target
        What the signal is kept at.
    fixed
        No scaling: the tasks stay as they are.
    seed
        Another draw of the same load.
    json
        Print it as JSON.
    """
    given = scenarios.find(scenario)
    if measured is not None:
        given = scenarios.with_times(given, read_measured(measured))
    if fixed:
        given = replace(given, scaling=None)
    given = _with_tasks(given, tasks)
    if signal is not None or target is not None:
        given = _with_signal(given, signal, target)
    course = Simulation(scenarios.checked(given if seed is None else replace(given, seed=seed))).run()
    outcome = outcome_of(course)
    if out is not None:
        _write(out, course, outcome)
    if json:
        _print_json(outcome)
    else:
        _show(outcome)


def scenario(name: str | None = None, /) -> None:
    """Print a scenario that comes with this, to change and to simulate.

    Parameters
    ----------
    name
        One of those that are listed without it.
    """
    sys.stdout.write("".join(f"{known}\n" for known in scenarios.names()) if name is None else scenarios.text_of(name))


def _run(p50_s: float | None, p95_s: float | None, measured: Path | None, bundle: str | None) -> ServiceTimes:
    if measured is not None:
        if p50_s is not None or p95_s is not None:
            raise InvalidInput("measured", "--measured has the run times: leave --run-p50-s and --run-p95-s out")
        times = read_measured(measured, bundle)
        return next(iter(times.values())) if bundle is not None else times[""]
    if p50_s is None or p95_s is None:
        raise InvalidInput("run_p50_s", "give --run-p50-s and --run-p95-s, or --measured")
    try:
        return ServiceTimes.lognormal(p50_s, p95_s)
    except ValueError as error:
        raise InvalidInput("run_p95_s", f"--run-p95-s: {error}") from None


def _gateway(file: Path | None) -> GatewayConfig:
    text = '{"tenant": "capacity", "project": "main", "profile": "production"}'
    checked = check_gateway(text if file is None else file.read_text("utf-8"))
    if isinstance(checked, Invalid):
        raise InvalidInput("gateway", f"{file} is not valid: {'; '.join(map(str, checked.errors))}")
    return checked.config


def _with_tasks(given: Scenario, tasks: int | None) -> Scenario:
    if tasks is None:
        return given
    scaling = given.scaling and replace(given.scaling, min_tasks=tasks, max_tasks=max(tasks, given.scaling.max_tasks))
    return replace(given, tasks=replace(given.tasks, count=tasks), scaling=scaling)


def _with_signal(given: Scenario, signal: Signal | None, target: float | None) -> Scenario:
    scaling = given.scaling
    if scaling is None:
        raise InvalidInput("signal", "--signal and --target say how it is scaled, and this is not scaled")
    return replace(given, scaling=replace(scaling, signal=signal or scaling.signal, target=target or scaling.target))


def _show(outcome: Outcome) -> None:
    by_class = {"all": outcome.all, **outcome.by_class}
    table(
        ("", "started", "wait p50", "p95", "p99", "longest", "still waiting", "refused"),
        (
            *((name, *_told(waits), f"{waits.refused:,}") for name, waits in by_class.items()),
            *((name, *_told(waits), "") for name, waits in outcome.by_bundle.items()),
        ),
    )
    print(flush=True)
    table(
        ("", ""),
        (
            ("tasks at most", f"{outcome.tasks_most}"),
            ("hours of tasks", f"{outcome.task_hours:.1f}"),
            ("slots busy", f"{outcome.busy_share:.0%}"),
            ("turns that waited at most", f"{outcome.waiting_most:,}"),
            *((f"refused: {reason}", f"{count:,}") for reason, count in outcome.refused.items()),
        ),
    )


def _told(waits: Waits) -> Sequence[str]:
    seconds = (waits.p50_s, waits.p95_s, waits.p99_s, waits.longest_s)
    return (f"{waits.started:,}", *(f"{one:.2f} s" for one in seconds), f"{waits.unstarted:,}")


def _write(folder: Path, course: Course, outcome: Outcome) -> None:
    from kdcube.capacity.drawing import draw  # pygal takes its time, and changes how Python imports

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "outcome.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
        for name, svg in draw(course).items():
            (folder / f"{name}.svg").write_bytes(svg)
    except OSError as error:
        raise InvalidInput("out", f"--out: cannot write in {folder}: {error.strerror}") from None


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
