"""How long a bundle takes: a host to load, a turn to its first text, a release from git to its first turn."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bench.alone import run_alone
from bench.cpu import process_cpu_s
from bench.report import Bench, Effort, Section, Spread, Table, spread
from bench.turn_envelopes import envelope

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitSettings
from kdcube.proc.bundles.jobs import Delta, Emit, TurnJob
from kdcube.proc.bundles.pool import HostPool, open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.sources.git_source import open_git_store
from kdcube.proc.bundles.turns import RunningTurn

BUNDLE = "echo@1.0.0"
_GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "init.defaultBranch=main")


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: Spread
    cpu_s: Spread
    """Of proc, of git and of the hosts that were started."""


@dataclass(frozen=True, slots=True)
class Releases:
    host: Cost
    first_text_ms: Spread
    prepared: Cost
    activated: Cost


class FirstText:
    """Notes when the first text comes."""

    def __init__(self) -> None:
        self.running: RunningTurn | None = None
        self.at: float | None = None

    def emit(self, frame: Emit) -> None:
        if self.at is None and isinstance(frame, Delta):
            self.at = time.perf_counter()

    async def apply(self, steer_ids: list[str]) -> set[str]:
        return set(steer_ids)


class Installation:
    """A pool with one bundle, and its repository."""

    def __init__(self, pool: HostPool, changed: asyncio.Event, work: Path) -> None:
        self.pool = pool
        self.number = 0
        self._changed = changed
        self._work = work

    async def release(self, entry: BundleEntry, revision: str | None = None) -> None:
        """Until new turns run it."""
        self.number += 1
        self.pool.apply({BUNDLE: BundleRelease(self.number, entry, revision)}, BUNDLE)
        await self._until(lambda: [one.release for one in self.pool.status()] == [self.number])

    async def settle(self) -> None:
        """Until what was replaced has left."""
        await self._until(lambda: [len(one.host_pids) for one in self.pool.status()] == [1])

    def commit(self) -> None:
        (self._work / "changed.py").write_text(f"number = {self.number}\n")
        _git(self._work, "add", "-A")
        _git(self._work, "commit", "-q", "-m", "change")

    async def first_text_ms(self) -> float:
        sink = FirstText()
        began = time.perf_counter()
        job = TurnJob(envelope(payload={"echo": {"deltas": 1, "text_bytes": 8}}), attempt=1)
        sink.running = self.pool.seat(BUNDLE).start(job, sink)
        await sink.running.outcome
        assert sink.at is not None
        return (sink.at - began) * 1000

    def cpu_s(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        hosts = [pid for status in self.pool.status() for pid in status.host_pids]
        return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(process_cpu_s, hosts))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def installed(folder: Path) -> AsyncGenerator[Installation]:
    work = folder / "work"
    work.mkdir()
    _git(work, "init", "-q")
    (work / "bundle.py").write_text((resources.files("kdcube") / "echo" / "bundle.py").read_text())
    changed = asyncio.Event()
    with open_git_store(folder / "git", GitSettings(allow_file=True)) as git:
        async with open_host_pool({}, slots=8, run_dir=folder / "run", on_change=changed.set, git=git) as pool:
            yield Installation(pool, changed, work)


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run([*_GIT, "-C", str(folder), *arguments], check=True, env={"PATH": os.environ["PATH"], "HOME": "/"})


async def measure(effort: Effort) -> Releases:
    hosts, prepared, activated = list[tuple[float, float]](), list[tuple[float, float]](), list[tuple[float, float]]()
    with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
        async with installed(Path(folder)) as here:
            entry = BundleEntry(id=BUNDLE, git_url=f"file://{folder}/work", wall_limit_s=1_000)
            here.commit()
            revision = (await here.pool.try_out(entry, None)).revision
            await here.release(entry, revision)
            for number in range(effort.of(20, 2)):
                other = entry.model_copy(update={"wall_limit_s": 1_001 + number})  # the same code, in a new host
                hosts.append(await _cost(here, here.release(other, revision)))
                await here.settle()
            await here.first_text_ms()
            first = [await here.first_text_ms() for _ in range(effort.of(500, 20))]
            for _ in range(effort.of(20, 2)):
                here.commit()
                trial = asyncio.create_task(here.pool.try_out(entry, None))
                prepared.append(await _cost(here, trial))
                activated.append(await _cost(here, here.release(entry, trial.result().revision)))
                await here.settle()
    return Releases(_spread(hosts), spread(first), _spread(prepared), _spread(activated))


async def _cost(here: Installation, work: Awaitable[object]) -> tuple[float, float]:
    began, cpu = time.perf_counter(), here.cpu_s()
    await work
    return time.perf_counter() - began, here.cpu_s() - cpu


def _spread(costs: list[tuple[float, float]]) -> Cost:
    return Cost(*map(spread, zip(*costs, strict=True)))


def section(result: Releases) -> Section:
    return Section(
        title="Releases of a bundle",
        how=(
            "The echo bundle from a git repository on the same disk, in proc's own Python. *Prepared*: the branch is "
            "fetched, the commit is written and synced, and a host loads it for trial. *Activated*: a host beside the "
            "one that runs has loaded it, and all new turns go there. Between the two are a commit in PostgreSQL and a "
            "message over Valkey."
        ),
        tables=(
            Table(
                ("", "seconds", "of CPU"),
                [
                    ["a host of the bundle, until it takes turns", str(result.host.seconds), str(result.host.cpu_s)],
                    ["a new commit, until it is prepared", str(result.prepared.seconds), str(result.prepared.cpu_s)],
                    ["and until it is activated", str(result.activated.seconds), str(result.activated.cpu_s)],
                ],
            ),
            Table(
                ("ms", ""),
                [["from a turn's start to its first text, in a host that runs", str(result.first_text_ms)]],
            ),
        ),
    )


BENCH = Bench("releases", Releases, measure, section, needs="git")

if __name__ == "__main__":
    run_alone(BENCH)
