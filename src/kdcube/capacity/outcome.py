"""What a course comes to: waits by class and bundle, what was refused, and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdcube.capacity.service_times import percentile_of
from kdcube.capacity.simulation import Course, Turn

BINS = 60


@dataclass(frozen=True, slots=True)
class Waits:
    """Of turns that started; seconds. ``refused`` and ``unstarted`` (at the end) are counted beside them."""

    started: int
    p50_s: float
    p95_s: float
    p99_s: float
    longest_s: float
    refused: int = 0
    unstarted: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """All figures of one course."""

    name: str
    all: Waits
    by_class: Mapping[str, Waits]
    by_bundle: Mapping[str, Waits]
    refused: Mapping[str, int]
    """By reason."""
    tasks_most: int
    task_hours: float
    busy_share: float
    """Of the slots that were there, over all of the time."""
    waiting_most: int


def outcome_of(course: Course) -> Outcome:
    turns, moments = course.turns, course.moments
    refused_of = {
        user_type: sum(n for (of, _), n in course.refused.items() if of == user_type)
        for user_type in {senders.user_type for senders in course.scenario.senders}
    }
    reasons: dict[str, int] = {}
    for (_, reason), count in course.refused.items():
        reasons[reason] = reasons.get(reason, 0) + count
    step_s = course.scenario.duration_s / max(len(moments) - 1, 1)
    slots = sum(moment.slots for moment in moments[:-1])
    return Outcome(
        name=course.scenario.name,
        all=_waits(turns, sum(refused_of.values())),
        by_class={
            str(user_type): _waits([turn for turn in turns if turn.user_type == user_type], refused)
            for user_type, refused in sorted(refused_of.items())
        },
        by_bundle=_grouped(turns, lambda turn: turn.bundle),
        refused=reasons,
        tasks_most=max(moment.tasks for moment in moments),
        task_hours=sum(moment.tasks for moment in moments[:-1]) * step_s / 3600,
        busy_share=sum(moment.running for moment in moments[:-1]) / slots if slots else 0.0,
        waiting_most=max(moment.waiting for moment in moments),
    )


def waits_of(seconds: Iterable[float], *, refused: int = 0, unstarted: int = 0) -> Waits:
    values = sorted(seconds)
    if not values:
        return Waits(0, 0.0, 0.0, 0.0, 0.0, refused, unstarted)
    p50, p95, p99 = (percentile_of(values, share) for share in (0.5, 0.95, 0.99))
    return Waits(len(values), p50, p95, p99, values[-1], refused, unstarted)


def wait_curve(
    waits: Iterable[tuple[float, float]], duration_s: float, share: float = 0.95, *, bins: int = BINS
) -> list[tuple[float, float]]:
    """Over (accepted, wait): the percentile of what was accepted within each bin, at its middle."""
    width = duration_s / bins
    groups: dict[int, list[float]] = {}
    for accepted_s, wait_s in waits:
        groups.setdefault(min(int(accepted_s / width), bins - 1), []).append(wait_s)
    return [((number + 0.5) * width, percentile_of(sorted(groups[number]), share)) for number in sorted(groups)]


def pairs_of(turns: Iterable[Turn]) -> list[tuple[float, float]]:
    """(accepted, wait) of those that started."""
    return [(turn.accepted_s, wait) for turn in turns if (wait := turn.wait_s) is not None]


def _grouped(turns: Sequence[Turn], by: Callable[[Turn], str]) -> dict[str, Waits]:
    groups: dict[str, list[Turn]] = {}
    for turn in turns:
        groups.setdefault(by(turn), []).append(turn)
    return {name: _waits(groups[name], 0) for name in sorted(groups)}


def _waits(turns: Sequence[Turn], refused: int) -> Waits:
    waits = [wait for turn in turns if (wait := turn.wait_s) is not None]
    return waits_of(waits, refused=refused, unstarted=len(turns) - len(waits))
