"""The record of what runs, for other commands and for the run after a crash."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from kdcube.local.process import birth_of, kill_group

_POLL_S = 0.05


class ProcessRecord(msgspec.Struct, frozen=True):
    """One process, named so that no other can be taken for it."""

    pid: int
    birth: str

    @property
    def alive(self) -> bool:
        return birth_of(self.pid) == self.birth


class ServiceRecord(msgspec.Struct, frozen=True):
    """A running service. ``stop_signal`` asks it to end; ``url`` holds no password."""

    name: str
    instance: str
    url: str
    process: ProcessRecord
    stop_signal: int


class State(msgspec.Struct, frozen=True):
    """What a supervisor runs, in the order of starting. After a SIGTERM it ends within ``drain_limit_s``."""

    supervisor: ProcessRecord
    url: str
    services: list[ServiceRecord]
    drain_limit_s: float


def record_of(pid: int) -> ProcessRecord | None:
    """The process with this ``pid`` now; None when it is over."""
    birth = birth_of(pid)
    return None if birth is None else ProcessRecord(pid, birth)


def read_state(path: Path) -> State | None:
    """The last written record; None when there is none (or one of another version, which nothing can be told from)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def write_state(path: Path, state: State) -> None:
    """Replace the record at once, so that readers never see half of it."""
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    draft.replace(path)


def end_leftovers(services: Iterable[ServiceRecord], grace_s: float, report: Callable[[str], None]) -> None:
    """End what a killed supervisor has left, in reverse order of starting; never a process that is not ours."""
    for service in reversed(list(services)):
        record = service.process
        if record.alive:
            report(f"ending {service.instance} (process {record.pid}), which an earlier run has left")
            os.kill(record.pid, service.stop_signal)
            wait_until_over(record, grace_s)
        if record.alive:
            os.kill(record.pid, signal.SIGKILL)
            wait_until_over(record, grace_s)
        if birth_of(record.pid) is None:  # its number is no stranger's, so neither is its group
            kill_group(record.pid)


def wait_until_over(record: ProcessRecord, limit_s: float) -> None:
    """Return when the process is over, or after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while record.alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
