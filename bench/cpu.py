"""CPU time of processes, to the nanosecond, from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
OWN = "load generator"
"""The bench's own process, as a component."""


def process_cpu_s(pid: int) -> float:
    """CPU seconds of the living threads of a process, and of its children that have ended; 0 when it is gone."""
    used_ns = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            used_ns += int(schedstat.read_text().split(maxsplit=1)[0])
    return used_ns / 1e9 + _ended_children_s(pid)


def _ended_children_s(pid: int) -> float:
    """In steps of a clock tick. PostgreSQL's helpers come and go."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / _TICKS_PER_S


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    with suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds so far by component and of the whole machine, and the moment."""

    at: float
    used_s: Mapping[str, float]
    machine_s: float


class CpuMeter:
    """CPU time of ``components`` (names and the processes that belong to them) and of this process."""

    def __init__(self, components: Mapping[str, Sequence[int]]) -> None:
        self.processes = components

    def read(self) -> Reading:
        used = {name: sum(map(process_cpu_s, pids)) for name, pids in self.processes.items()}
        return Reading(time.perf_counter(), {**used, OWN: time.process_time()}, _machine_s())


def _machine_s() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def per_unit_us(before: Reading, after: Reading, units: float) -> dict[str, float]:
    """CPU microseconds for each unit of work between two readings, by component."""
    return {name: (after.used_s[name] - used) / units * 1e6 for name, used in before.used_s.items()}


def cores_of_others(before: Reading, after: Reading) -> float:
    """How many cores were busy with something else, on average: what makes figures of a shared machine worse."""
    busy = (after.machine_s - before.machine_s) / (after.at - before.at)
    return max(busy - cores_used(before, after), 0.0)


def cores_used(before: Reading, after: Reading) -> float:
    """How many cores were busy with this work, on average."""
    return (sum(after.used_s.values()) - sum(before.used_s.values())) / (after.at - before.at)
