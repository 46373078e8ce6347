"""What is simulated: who sends how much when, how long turns run, what runs them, and how it is scaled.

A scenario is a document in YAML or JSON; ``kdcube capacity scenario NAME`` prints those that come with this. Seconds
count from its beginning. A rate over time is a list of points ``[second, turns a second]``, straight between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from kdcube.capacity.service_times import ServiceTimes
from kdcube.config import yaml_files
from kdcube.config.documents import UnreadableDocument, read_json
from kdcube.config.gateway import GatewayConfig, Invalid, check_gateway
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import UserType

DURATION_MAX_S = 7 * 86_400
TURNS_MAX = 5_000_000

Positive: TypeAlias = Annotated[float, Meta(gt=0, le=DURATION_MAX_S)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=DURATION_MAX_S)]
Rate: TypeAlias = Annotated[float, Meta(ge=0, le=100_000)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Signal: TypeAlias = Literal["backlog_per_slot", "load_per_slot", "queue_utilization", "slots_utilization", "wait_p95_s"]
Curve: TypeAlias = Annotated[list[tuple[Seconds, Rate]], Meta(min_length=1, max_length=1_000)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class RunTimes(_Part, frozen=True):
    """Give ``p50_s`` and ``p95_s``, or ``fixed_s``, or ``values_s`` as measured."""

    p50_s: Positive | None = None
    p95_s: Positive | None = None
    fixed_s: Positive | None = None
    values_s: Annotated[list[Positive], Meta(min_length=1, max_length=100_000)] | None = None

    def times(self) -> ServiceTimes:
        """Raises ValueError when it is not said, or said twice."""
        if self.p50_s is not None and self.p95_s is not None and self.fixed_s is None and self.values_s is None:
            return ServiceTimes.lognormal(self.p50_s, self.p95_s)
        if self.p50_s is None and self.p95_s is None:
            if self.fixed_s is not None and self.values_s is None:
                return ServiceTimes.fixed(self.fixed_s)
            if self.values_s is not None and self.fixed_s is None:
                return ServiceTimes.of(self.values_s)
        raise ValueError("give p50_s and p95_s, or fixed_s, or values_s")


class Slow(_Part, frozen=True):
    """From when until when a bundle takes ``factor`` times as long: by what it calls, as a model that is busy."""

    from_s: Seconds
    to_s: Seconds
    factor: Annotated[float, Meta(gt=0, le=1_000)]


class BundleLoad(_Part, frozen=True):
    """How a bundle runs."""

    run: RunTimes
    slow: list[Slow] = []
    concurrency: Annotated[int, Meta(ge=1, le=1_000)] = 8
    """Turns at once in one of its processes: proc starts more of them as these fill."""
    host_start_s: Seconds = 0.5
    """How long a further process takes to start."""


class Senders(_Part, frozen=True):
    """Users of one class who send to one bundle."""

    turns_per_s: Curve
    bundle: str
    user_type: UserType = UserType.REGISTERED
    users: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    same_conversation: Share = 0.0
    """How many of a user's messages go on with the conversation before without waiting for its answer: then they wait
    until it is there.
    """


class Tasks(_Part, frozen=True):
    """What runs turns: tasks of proc."""

    count: Annotated[int, Meta(ge=1, le=1_000)] = 2
    slots: Annotated[int, Meta(ge=1, le=1_000)] = 16
    start_s: Seconds = 75.0
    """From the decision to start one until it claims: placing it, pulling its image, loading bundles."""
    overhead: RunTimes = RunTimes(fixed_s=0.008)
    """From a claim to the START of a turn, which a turn waits for also where nothing is in its way."""


class Scaling(_Part, frozen=True):
    """Target tracking by Application Auto Scaling, as ``scaling.py`` says."""

    signal: Signal = "backlog_per_slot"
    target: Annotated[float, Meta(gt=0)] = 0.5
    min_tasks: Annotated[int, Meta(ge=1, le=1_000)] = 2
    max_tasks: Annotated[int, Meta(ge=1, le=1_000)] = 20
    scale_out_cooldown_s: Seconds = 60.0
    scale_in_cooldown_s: Seconds = 300.0
    scale_in_share: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Of the tasks that one scale-in takes away at most, one at least."""
    every_s: Positive = 60.0
    """Between the exports of the signal; also the period of the alarms."""


class Scenario(_Part, frozen=True):
    """All of it."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    duration_s: Positive
    senders: Annotated[list[Senders], Meta(min_length=1, max_length=100)]
    bundles: dict[str, BundleLoad]
    tasks: Tasks = Tasks()
    scaling: Scaling | None = None
    """None: the tasks stay as they are."""
    gateway: dict[str, Any] = {}
    """Members of GATEWAY_CONFIG_JSON that differ from its profile: when turns are refused, and turns of a user."""
    seed: int = 1

    def config(self) -> GatewayConfig:
        """Raises InvalidInput."""
        checked = check_gateway(json.dumps({"tenant": "capacity", "project": "main", **self.gateway}))
        if isinstance(checked, Invalid):
            raise InvalidInput("gateway", f"gateway: {'; '.join(map(str, checked.errors))}")
        return checked.config


def rate_at(curve: Sequence[tuple[float, float]], second: float) -> float:
    """Before the first point and after the last one the rate is theirs."""
    if second <= curve[0][0]:
        return curve[0][1]
    for (from_s, before), (to_s, after) in pairwise(curve):
        if second <= to_s:
            return after if to_s == from_s else before + (after - before) * (second - from_s) / (to_s - from_s)
    return curve[-1][1]


def names() -> list[str]:
    """Of the scenarios that come with this."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def text_of(name: str) -> str:
    """Raises InvalidInput."""
    if name not in names():
        raise InvalidInput("scenario", f"there is no scenario {name}; give one of {', '.join(names())}, or a file")
    return (_folder() / f"{name}.yaml").read_text("utf-8")


def find(given: str) -> Scenario:
    """By name, or in a file. Raises InvalidInput."""
    path = Path(given).expanduser()
    if not path.suffix:
        return read(text_of(given), given)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("scenario", f"cannot read {given}: {error}") from None
    return read(text, given)


def read(text: str, source: str) -> Scenario:
    """Raises InvalidInput, which names the field."""
    try:
        return checked(msgspec.convert(read_json(yaml_files.json_of(text)), Scenario))
    except UnreadableDocument as error:
        raise InvalidInput("scenario", f"{source} {error}") from None
    except msgspec.ValidationError as error:
        raise InvalidInput("scenario", f"{source}: {error}") from None


def checked(scenario: Scenario) -> Scenario:
    """What types do not say. Raises InvalidInput, which names the field."""
    try:
        _check(scenario)
    except ValueError as error:
        raise InvalidInput("scenario", f"{scenario.name}: {error}") from None
    scenario.config()
    return scenario


def with_times(scenario: Scenario, measured: Mapping[str, ServiceTimes]) -> Scenario:
    """With the run times of the bundles that were measured. Raises InvalidInput when none of its own was."""
    bundles = dict(scenario.bundles)
    known = bundles.keys() & measured.keys()
    if not known:
        told = f"{', '.join(sorted(measured))} measured, and {', '.join(bundles)} in the scenario"
        raise InvalidInput("measured", f"none of its bundles was measured: {told}; name them alike")
    for name in known:
        values = [max(value, 1e-6) for value in measured[name].values_s]
        bundles[name] = replace(bundles[name], run=RunTimes(values_s=values))
    return replace(scenario, bundles=bundles)


def _check(scenario: Scenario) -> None:
    for name, bundle in scenario.bundles.items():
        try:
            bundle.run.times()
        except ValueError as error:
            raise ValueError(f"bundles.{name}.run: {error}") from None
    try:
        scenario.tasks.overhead.times()
    except ValueError as error:
        raise ValueError(f"tasks.overhead: {error}") from None
    turns = 0.0
    for number, senders in enumerate(scenario.senders):
        if senders.bundle not in scenario.bundles:
            known = ", ".join(scenario.bundles) or "none is"
            raise ValueError(f"senders[{number}].bundle: {senders.bundle} is not under bundles; {known}")
        points = senders.turns_per_s
        if any(after[0] < before[0] for before, after in pairwise(points)):
            raise ValueError(f"senders[{number}].turns_per_s: seconds must not fall")
        turns += max(rate for _, rate in points) * scenario.duration_s
    if turns > TURNS_MAX:
        raise ValueError(f"duration_s: that may be {turns:,.0f} turns, above {TURNS_MAX:,}; simulate less at once")
    scaling = scenario.scaling
    if scaling is not None and not scaling.min_tasks <= scenario.tasks.count <= scaling.max_tasks:
        raise ValueError("tasks.count: it must be from scaling.min_tasks to scaling.max_tasks")


def _folder() -> Any:
    return resources.files("kdcube.capacity") / "scenarios"
