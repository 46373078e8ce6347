"""Named places where tests make a process fail. Off, and nearly free, unless KDCUBE_FAILPOINTS is set.

Code marks a step of a protocol with ``failpoint("proc.start.before_commit")`` or, where a pause must not stop the event
loop, with ``await hit("proc.start.before_commit")``. A service's main calls ``install(settings.failpoints)`` once.

The variable is a list, separated by commas, of ``name=action[(file)][@first][:count]``:

- ``crash``: the process is gone at once, as by kill -9.
- ``error``: raises InjectedFailure.
- ``drop``: raises StoreUnavailable; placed after an effect, it is a reply that was lost.
- ``pause(file)``: notes its process id in ``file.reached`` and waits until ``file`` exists. ``pause`` waits for
  ``release(name)``.
- ``crash(file)``, ``error(file)``, ``drop(file)``: only when ``file`` exists, and then it becomes ``file.reached``: of
  all processes one acts, once for each time that the file is made.

``@first`` is the first visit that acts (default 1), ``:count`` how many act (default all). So
``proc.append.after=drop@3:1,ingress.admitted=pause(/tmp/go)`` loses the reply of the third append. A step may be named
several times, for several actions.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.protocol.errors import ConfigurationError, KDCubeError, StoreUnavailable

VARIABLE = "KDCUBE_FAILPOINTS"
_POINT = re.compile(
    r"(?P<name>[a-z0-9_.]+)=(?P<action>crash|error|drop|pause)"
    r"(?:\((?P<file>[^()]+)\))?(?:@(?P<first>[1-9]\d{0,8}))?(?::(?P<count>[1-9]\d{0,8}))?"
)
_POLL_S = 0.01

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class InjectedFailure(KDCubeError):
    """A failpoint failed, as a test asked it to."""


@dataclass(frozen=True, slots=True)
class _Point:
    action: str
    file: Path | None
    first: int
    last: float


_points: dict[str, list[_Point]] = {}
_visits: Counter[str] = Counter()
_released: set[str] = set()


def install(spec: str) -> None:
    """Replaces what is installed; an empty ``spec`` turns all off. Raises ConfigurationError."""
    points = [_parse(part.strip()) for part in spec.split(",") if part.strip()]
    _points.clear()
    _visits.clear()
    _released.clear()
    for name, point in points:
        _points.setdefault(name, []).append(point)
    if points:
        logger.warning("failpoints.installed", spec=spec)


def failpoint(name: str) -> None:
    """A step. Nothing unless ``name`` is installed; a pause stops the whole thread."""
    for point in _visited(name) if _points else ():
        if _act(name, point):
            while not _may_go_on(name, point):
                time.sleep(_POLL_S)


async def hit(name: str) -> None:
    """A step. Nothing unless ``name`` is installed; a pause stops the calling task only."""
    for point in _visited(name) if _points else ():
        if _act(name, point):
            while not _may_go_on(name, point):  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(_POLL_S)


def visits(name: str) -> int:
    """How often the step ``name`` was come by since it was installed."""
    return _visits[name]


def release(name: str) -> None:
    """Ends present and future pauses at ``name`` in this process."""
    _released.add(name)


def _parse(part: str) -> tuple[str, _Point]:
    match = _POINT.fullmatch(part)
    if match is None:
        raise ConfigurationError(VARIABLE, f"has {part!r}; give name=crash|error|drop|pause[(file)][@first][:count]")
    first = int(match["first"] or 1)
    last = first + int(match["count"]) - 1 if match["count"] else float("inf")
    return match["name"], _Point(match["action"], Path(match["file"]) if match["file"] else None, first, last)


def _visited(name: str) -> list[_Point]:
    """Counts the visit; what acts this time."""
    points = _points.get(name)
    if points is None:
        return []
    _visits[name] += 1
    return [point for point in points if point.first <= _visits[name] <= point.last]


def _act(name: str, point: _Point) -> bool:
    """Fails, or returns True for a pause."""
    if point.file is not None and not _told(point.action, point.file):
        return False
    logger.warning("failpoint.acts", failpoint=name, action=point.action)
    match point.action:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal ends the process before this does
        case "error":
            raise InjectedFailure(f"the failpoint {name} failed")
        case "drop":
            raise StoreUnavailable("failpoint", f"the reply at {name} was dropped")
        case _:
            return True
    return False


def _told(action: str, file: Path) -> bool:
    """Whether the file, there or not, asks for the action; if so, notes that it was heard."""
    reached = file.with_name(file.name + ".reached")
    if action == "pause":
        if file.exists():
            return False
        reached.write_text(str(os.getpid()))
        return True
    try:
        file.rename(reached)  # of all who come by, one gets it
    except FileNotFoundError:
        return False
    return True


def _may_go_on(name: str, point: _Point) -> bool:
    return name in _released or (point.file is not None and point.file.exists())
