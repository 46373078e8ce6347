"""What each process of the system holds: memory, descriptors, threads."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from bench.cpu import tree
from bench.soak.system import System

HOST = "bundle host"
OWN = "load generator"
_KB = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """By one process, or by PostgreSQL's all together. ``anon`` is memory that belongs to no file and nobody else."""

    pid: int
    age_s: float
    rss: int
    pss: int
    anon: int
    fds: int
    threads: int


def sample(system: System) -> dict[str, list[Held]]:
    """By instance; all bundle hosts are one name. A process that ends meanwhile is left out."""
    found: dict[str, list[Held]] = {}
    hosts = set(system.hosts())
    for instance, pid in system.pids().items():
        members = tree(pid) if instance == "postgres" else [pid]
        _add(found, instance, members)
    for pid in sorted(hosts):
        _add(found, HOST, [pid])
    if (supervisor := system.supervisor()) is not None:
        _add(found, "supervisor", [supervisor])
    _add(found, OWN, [os.getpid()])
    return found


def _add(found: dict[str, list[Held]], name: str, pids: list[int]) -> None:
    """One ``Held`` for all of them, which begins with the first."""
    try:
        each = [_held(pid) for pid in pids[:1]]
    except (OSError, psutil.Error):
        return
    for pid in pids[1:]:
        try:
            each.append(_held(pid))
        except (OSError, psutil.Error):  # a connection's process that has ended since
            continue
    if each:
        first = each[0]
        found.setdefault(name, []).append(
            Held(
                first.pid,
                first.age_s,
                sum(one.rss for one in each),
                sum(one.pss for one in each),
                sum(one.anon for one in each),
                sum(one.fds for one in each),
                sum(one.threads for one in each),
            )
        )


def _held(pid: int) -> Held:
    process = psutil.Process(pid)
    rollup = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:] if ":" in line
    )

    def size(name: str) -> int:
        return int(rollup[name].split()[0]) * _KB

    return Held(
        pid,
        time.time() - process.create_time(),
        size("Rss"),
        size("Pss"),
        size("Pss_Anon"),
        process.num_fds(),
        process.num_threads(),
    )
