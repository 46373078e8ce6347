"""The curves of a course."""

from __future__ import annotations

from kdcube.capacity.outcome import pairs_of, wait_curve
from kdcube.capacity.plots import Points, curves
from kdcube.capacity.simulation import Course, Turn


def draw(course: Course) -> dict[str, bytes]:
    """SVG by name: waits over time by class and bundle, turns beside slots, and tasks."""
    duration_s, moments = course.scenario.duration_s, course.moments
    groups: dict[str, list[Turn]] = {}
    for turn in course.turns:
        groups.setdefault(f"{turn.user_type}, {turn.bundle}", []).append(turn)
    waits = {name: _minutes(wait_curve(pairs_of(groups[name]), duration_s)) for name in sorted(groups)}
    at = [moment.at_s / 60 for moment in moments]
    time, name = "minutes", course.scenario.name
    return {
        "waits": curves(f"{name}: wait p95, by when the message came", waits, x_title=time, y_title="seconds"),
        "turns": curves(
            f"{name}: turns and slots",
            {
                "waiting": list(zip(at, (moment.waiting for moment in moments), strict=True)),
                "running": list(zip(at, (moment.running for moment in moments), strict=True)),
                "slots": list(zip(at, (moment.slots for moment in moments), strict=True)),
            },
            x_title=time,
            y_title="turns",
        ),
        "tasks": curves(
            f"{name}: tasks of proc",
            {
                "wanted by the policy": list(zip(at, (moment.desired for moment in moments), strict=True)),
                "running": list(zip(at, (moment.tasks for moment in moments), strict=True)),
            },
            x_title=time,
            y_title="tasks",
        ),
    }


def _minutes(points: Points) -> Points:
    return [(second / 60, value) for second, value in points]
