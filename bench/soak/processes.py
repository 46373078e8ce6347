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
POSTGRES = "PostgreSQL process"
OWN = "load generator"
_KB = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """By one process. ``anon`` is memory that belongs to no file: what it has for itself."""

    pid: int
    age_s: float
    rss: int
    pss: int
    anon: int
    fds: int
    threads: int


def sample(system: System) -> dict[str, list[Held]]:
    """By instance; all bundle hosts are of one name, as are PostgreSQL's. One that ends meanwhile is left out."""
    pids = {instance: [pid] for instance, pid in system.pids().items()}
    pids[POSTGRES] = [pid for postmaster in pids.pop("postgres", []) for pid in tree(postmaster)]
    pids |= {HOST: system.hosts(), OWN: [os.getpid()]}
    if (supervisor := system.supervisor()) is not None:
        pids["supervisor"] = [supervisor]
    found = {name: [held for pid in each if (held := _held(pid)) is not None] for name, each in pids.items()}
    return {name: each for name, each in found.items() if each}


def _held(pid: int) -> Held | None:
    try:
        process = psutil.Process(pid)
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        size = {name: int(value.split()[0]) * _KB for name, _, value in (line.partition(":") for line in lines)}
        return Held(
            pid,
            time.time() - process.create_time(),
            size["Rss"],
            size["Pss"],
            size["Pss_Anon"],
            process.num_fds(),
            process.num_threads(),
        )
    except (OSError, psutil.Error):
        return None
