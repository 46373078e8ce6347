"""What one bundle host may take, and how its keeper is told.

The kernel limits each process of a bundle (descriptors, size of a file, data segments, cores); the keeper watches all
of them together (memory, processes and threads, the private folder). Control groups would do both, but a container may
not make any, and RLIMIT_NPROC counts all processes of an account on the machine, and none of those of root.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import structlog

from kdcube.config.bundles import BundleEntry

_log = structlog.get_logger("kdcube.bundle")

MEMORY_LIMIT_MB = 2_048
"""Where the entry says nothing; half of the memory here when that is less."""
NICE = 5
"""Of hosts: where cores are short, proc and the stores go before them."""
OOM_SCORE = 500
"""Of hosts: where memory is short, the kernel ends one of them before proc or a store."""
DATA_FACTOR, DATA_MARGIN_BYTES = 2, 8 * 1024**3
"""RLIMIT_DATA beyond the memory limit. It counts what a program may write to, not what it holds: each thread's stack is
8 MB of it, and allocators take more than they use. It stops a single absurd allocation, with MemoryError; what is held
is what the keeper measures."""
_MB = 1024 * 1024
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use of its machine or container."""

    memory_bytes: int
    cores: tuple[int, ...]
    open_files: int

    @classmethod
    def here(cls) -> Machine:
        total = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1]) * 1024
        for path in _CGROUP_LIMITS:
            try:
                total = min(total, int(Path(path).read_text()))
            except (OSError, ValueError):  # there is none, or it says "max"
                continue
        _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = open_files == resource.RLIM_INFINITY
        return cls(total, tuple(sorted(os.sched_getaffinity(0))), 1_048_576 if unlimited else open_files)


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Of one host with all that it starts, in bytes and numbers."""

    memory_bytes: int
    processes: int
    open_files: int
    file_bytes: int
    temp_bytes: int
    cores: tuple[int, ...] | None
    """None: all of them."""

    @classmethod
    def of(cls, entry: BundleEntry, machine: Machine, number: int) -> ProcessLimits:
        """For the host with this number: hosts with a ``cpu_limit`` are spread over the cores, the first one last."""
        cores = None
        if entry.cpu_limit is not None and entry.cpu_limit < len(machine.cores):
            there = machine.cores[::-1]
            first = number * entry.cpu_limit
            cores = tuple(sorted(there[(first + n) % len(there)] for n in range(entry.cpu_limit)))
        return cls(
            memory_bytes=(
                min(MEMORY_LIMIT_MB * _MB, machine.memory_bytes // 2)
                if entry.memory_limit_mb is None
                else entry.memory_limit_mb * _MB
            ),
            processes=entry.process_limit,
            open_files=min(entry.open_files_limit, machine.open_files),
            file_bytes=(entry.file_size_limit_mb or entry.temp_limit_mb) * _MB,
            temp_bytes=entry.temp_limit_mb * _MB,
            cores=cores,
        )

    def options(self) -> list[str]:
        """For ``keeper.py``."""
        options: dict[str, object] = {
            "memory": self.memory_bytes,
            "processes": self.processes,
            "temp": self.temp_bytes,
            "open": self.open_files,
            "file": self.file_bytes,
            "data": DATA_FACTOR * self.memory_bytes + DATA_MARGIN_BYTES,
            "core": 0,
            "nice": NICE,
            "oom": OOM_SCORE,
        }
        if self.cores is not None:
            options["cores"] = ",".join(map(str, self.cores))
        return [f"{name}={value}" for name, value in options.items()]


def warn_of_limits(entry: BundleEntry, machine: Machine) -> None:
    """Logs what an entry allows and this machine does not have: such a limit has no effect here."""
    for limit, given, here in (
        ("memory_limit_mb", entry.memory_limit_mb, machine.memory_bytes // _MB),
        ("cpu_limit", entry.cpu_limit, len(machine.cores)),
    ):
        if given is not None and given > here:
            _log.warning("limit_without_effect", bundle=entry.id, limit=limit, given=given, here=here)
