"""A scenario by discrete events: messages, admission, the fair queue, slots, starts of tasks, and the scaling policy.

What decides in the real system decides here by the same rules: the queue (``fair_queue.py``), refusals (as
``redis/lua/admit.lua``), workers that claim as many turns as they have room for, processes of a bundle that double
while they fill, scale-in that takes idle tasks only (ECS protects those with turns). Left out: rates of users, limits
and cancels that end turns, and what a busy CPU adds to every turn: run times are to be measured where that is in them.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import simpy

from kdcube.capacity.arrivals import Arrival, arrivals
from kdcube.capacity.fair_queue import FairQueue
from kdcube.capacity.scaling import TargetTracking
from kdcube.capacity.scenario import BundleLoad, Scenario, Signal
from kdcube.capacity.service_times import ServiceTimes, percentile_of
from kdcube.config.gateway import GatewayConfig
from kdcube.protocol.turns import UserType

_Steps: TypeAlias = Generator[simpy.Event, Any, None]

SAMPLES = 300
"""Points of the curves."""


@dataclass(slots=True, eq=False)
class Turn:
    """A message that was admitted. Seconds since the beginning."""

    accepted_s: float
    user_type: UserType
    user: str
    conversation: str
    bundle: str
    started_s: float | None = None
    ended_s: float | None = None
    task: Task | None = None

    @property
    def wait_s(self) -> float | None:
        """From its admission to its START; None while it waits."""
        return None if self.started_s is None else self.started_s - self.accepted_s


@dataclass(slots=True, eq=False)
class Task:
    """One proc: its free slots and, by bundle, its processes and how many turns they have."""

    free: int
    hosts: dict[str, int]
    starting: dict[str, int] = field(default_factory=dict[str, int])
    turns: Counter[str] = field(default_factory=Counter[str])
    idle: bool = True
    """Whether it waits for the doorbell."""
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """How it stood ``at_s``. ``slots`` of tasks that run; ``desired`` tasks; ``refused`` so far."""

    at_s: float
    waiting: int
    running: int
    slots: int
    tasks: int
    desired: int
    refused: int


@dataclass(frozen=True, slots=True)
class Course:
    """Everything that happened."""

    scenario: Scenario
    turns: Sequence[Turn]
    refused: Counter[tuple[UserType, str]]
    """By class and reason."""
    moments: Sequence[Moment]


class Simulation:
    """One run. ``sent`` replaces the scenario's own arrivals. The same seed gives the same course."""

    def __init__(self, scenario: Scenario, *, sent: Sequence[Arrival] | None = None) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)  # noqa: S311
        self._sent = arrivals(scenario, self._random) if sent is None else sent
        self._config: GatewayConfig = scenario.config()
        self._times = {name: bundle.run.times() for name, bundle in scenario.bundles.items()}
        self._overhead: ServiceTimes = scenario.tasks.overhead.times()
        self._env = simpy.Environment()
        limits = self._config.limits.proc
        self._queue = FairQueue[Turn](running_per_user=limits.max_running_turns_per_user)
        self._live: Counter[str] = Counter()
        """Turns of each user."""
        self._turns: list[Turn] = []
        self._refused: Counter[tuple[UserType, str]] = Counter()
        self._moments: list[Moment] = []
        self._tasks: list[Task] = []
        self._bell: deque[Task] = deque()
        """Workers that wait for work, the one that waits longest first."""
        self._coming = 0
        self._cancelled = 0
        self._desired = scenario.tasks.count
        self._waits: list[float] = []
        """Since the last export."""

    def run(self) -> Course:
        """Until the scenario's end; what waits or runs then is left so."""
        env, scaling = self._env, self._scenario.scaling
        for _ in range(self._scenario.tasks.count):
            self._add_task()
        env.process(self._arrive())
        env.process(self._look())
        if scaling is not None:
            env.process(self._scale(TargetTracking(scaling, self._desired), scaling.signal, scaling.every_s))
        env.run(until=self._scenario.duration_s)
        self._note()
        return Course(self._scenario, self._turns, self._refused, self._moments)

    # ---- messages

    def _arrive(self) -> _Steps:
        env = self._env
        for arrival in self._sent:
            yield env.timeout(max(0.0, arrival.at_s - env.now))
            if (reason := self._refusal(arrival)) is not None:
                self._refused[arrival.user_type, reason] += 1
                continue
            turn = Turn(env.now, arrival.user_type, arrival.user, arrival.conversation, arrival.bundle)
            self._turns.append(turn)
            self._live[turn.user] += 1
            self._queue.admit(turn)
            self._hand_out()

    def _refusal(self, arrival: Arrival) -> str | None:
        """Why admission refuses the message; None when it does not."""
        limits, pressure, queue = self._config.limits.proc, self._config.backpressure.ingress, self._queue
        if self._live[arrival.user] >= limits.max_live_turns_per_user:
            return "user_queue_full"
        slots = self._slots
        if not slots:
            return "no_capacity"
        if queue.waiting + 1 > limits.max_queue_size:
            return "queue_full"
        capacity = max(slots * (1 - pressure.capacity_buffer) * pressure.queue_depth_multiplier, 1)
        share = min(pressure.threshold(arrival.user_type), pressure.hard_limit_threshold)
        return "backpressure" if queue.present + 1 > max(math.floor(capacity * share + 1e-9), 1) else None

    # ---- turns

    def _hand_out(self) -> None:
        """Workers that wait claim, one after the other, until nothing is left that any of them could run."""
        queue = self._queue
        for _ in range(len(self._bell)):
            if not queue.competing:
                return
            task = self._bell.popleft()
            if task.gone:
                continue
            task.idle = False
            self._claim(task)

    def _claim(self, task: Task) -> None:
        """As often as it gets all that it asked for; then it waits for the doorbell, or for a free slot."""
        while room := self._room(task):
            wanted = min(task.free, sum(room.values()))
            claimed = self._queue.claim(room, wanted, live_slots=self._slots)
            for turn in claimed:
                self._begin(turn, task)
            if len(claimed) < wanted:
                task.idle = True
                self._bell.append(task)
                return

    def _room(self, task: Task) -> dict[str, int]:
        if not task.free:
            return {}
        bundles = self._scenario.bundles
        places = {name: hosts * bundles[name].concurrency - task.turns[name] for name, hosts in task.hosts.items()}
        return {name: min(task.free, free) for name, free in places.items() if free > 0}

    def _begin(self, turn: Turn, task: Task) -> None:
        env, bundle = self._env, self._scenario.bundles[turn.bundle]
        turn.task = task
        task.free -= 1
        task.turns[turn.bundle] += 1
        if task.turns[turn.bundle] >= task.hosts[turn.bundle] * bundle.concurrency:
            self._want_hosts(task, turn.bundle, bundle)
        overhead = self._overhead.draw(self._random)
        turn.started_s = env.now + overhead
        self._waits.append(turn.started_s - turn.accepted_s)
        run = self._times[turn.bundle].draw(self._random) * _slowness(bundle, turn.started_s)
        done = env.timeout(overhead + run, turn)
        cast("list[Callable[[simpy.Event], None]]", done.callbacks).append(self._end)

    def _end(self, done: simpy.Event) -> None:
        turn = done.value
        assert isinstance(turn, Turn) and turn.task is not None
        task = turn.task
        turn.ended_s, turn.task = self._env.now, None
        task.free += 1
        task.turns[turn.bundle] -= 1
        self._live[turn.user] -= 1
        self._queue.end(turn)
        self._shrink()
        if not task.idle and not task.gone:
            self._claim(task)
        self._hand_out()

    def _want_hosts(self, task: Task, name: str, bundle: BundleLoad) -> None:
        most = math.ceil(self._scenario.tasks.slots / bundle.concurrency)
        more = min(most, 2 * task.hosts[name]) - task.hosts[name] - task.starting.get(name, 0)
        if more > 0:
            task.starting[name] = task.starting.get(name, 0) + more
            self._env.process(self._start_hosts(task, name, more, bundle.host_start_s))

    def _start_hosts(self, task: Task, name: str, more: int, start_s: float) -> _Steps:
        yield self._env.timeout(start_s)
        task.starting[name] -= more
        task.hosts[name] += more
        if not task.idle and not task.gone:
            self._claim(task)
        self._hand_out()

    # ---- tasks

    @property
    def _slots(self) -> int:
        return len(self._tasks) * self._scenario.tasks.slots

    def _add_task(self) -> None:
        task = Task(self._scenario.tasks.slots, dict.fromkeys(self._scenario.bundles, 1))
        self._tasks.append(task)
        self._bell.append(task)
        self._hand_out()

    def _start_task(self) -> _Steps:
        yield self._env.timeout(self._scenario.tasks.start_s)
        self._coming -= 1
        if self._cancelled:
            self._cancelled -= 1
        else:
            self._add_task()
            self._shrink()

    def _shrink(self) -> None:
        """Takes what is too much: tasks that are starting first, then idle ones; those with turns are protected."""
        excess = len(self._tasks) + self._coming - self._cancelled - self._desired
        if excess <= 0:
            return
        stopped = min(excess, self._coming - self._cancelled)
        self._cancelled += stopped
        idle = [task for task in self._tasks if not task.turns.total()][: excess - stopped]
        for task in idle:
            task.gone = True
            self._tasks.remove(task)

    def _scale(self, policy: TargetTracking, signal: Signal, every_s: float) -> _Steps:
        while True:
            yield self._env.timeout(every_s)
            self._desired = policy.observe(self._env.now, self._signal(signal))
            for _ in range(self._desired - len(self._tasks) - self._coming + self._cancelled):
                if self._cancelled:  # it has not been stopped yet
                    self._cancelled -= 1
                else:
                    self._coming += 1
                    self._env.process(self._start_task())
            self._shrink()

    def _signal(self, name: Signal) -> float | None:
        """As the metrics service makes it (``metrics/signals.py``); None when there is nothing to tell."""
        waits, self._waits = sorted(self._waits), []
        queue, slots = self._queue, self._slots
        match name:
            case "wait_p95_s":
                return percentile_of(waits, 0.95) if waits else None
            case "queue_utilization":
                return queue.waiting / max(self._config.limits.proc.max_queue_size, 1)
            case "backlog_per_slot":
                return queue.competing / slots if slots else None
            case "slots_utilization":
                return queue.claimed / slots if slots else None
            case "load_per_slot":
                return (queue.competing + queue.claimed) / slots if slots else None

    # ---- looking on

    def _look(self) -> _Steps:
        while True:
            self._note()
            yield self._env.timeout(self._scenario.duration_s / SAMPLES)

    def _note(self) -> None:
        queue = self._queue
        self._moments.append(
            Moment(
                self._env.now,
                queue.waiting,
                queue.claimed,
                self._slots,
                len(self._tasks),
                self._desired,
                self._refused.total(),
            )
        )


def _slowness(bundle: BundleLoad, second: float) -> float:
    return math.prod(slow.factor for slow in bundle.slow if slow.from_s <= second < slow.to_s)
