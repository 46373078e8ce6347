"""Real bundle hosts under a pool, and a sink that plays proc's part."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import kdcube
from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.host import HostLimits
from kdcube.proc.bundles.jobs import Delta, Emit, Outcome, TurnJob
from kdcube.proc.bundles.pool import HostPool, open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.turns import RunningTurn
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnEnvelope, UserType


def echo_as(bundle_id: str, folder: Path) -> str:
    """The echo bundle under another id; gives its folder."""
    code = (Path(kdcube.__file__).parent / "echo" / "bundle.py").read_text()
    place = folder / "echo"
    place.mkdir(exist_ok=True)
    (place / "bundle.py").write_text(code.replace('Bundle("echo@1.0.0")', f"Bundle({bundle_id!r})"))
    return str(place)


def job(text: str = "", *, bundle_id: str = "test@1", echo: dict[str, Any] | None = None, **more: Any) -> TurnJob:
    envelope = TurnEnvelope(
        turn_id=new_id(),
        client_turn_id="client",
        tenant="acme",
        project="support",
        user_id="user-1",
        user_type=UserType.PAID,
        roles=("kdcube:role:paid",),
        session_id="session",
        request_id="request",
        conversation_id="conversation",
        bundle_id=bundle_id,
        text=text,
        content_hash="hash",
        payload={"echo": echo} if echo else {},
    )
    return TurnJob(envelope, attempt=1, **more)


@dataclass
class Run:
    """A running turn and what it has said. Text is acknowledged as it comes, unless ``acknowledge`` is off."""

    running: RunningTurn | None = None
    acknowledge: bool = True
    grants: Callable[[list[str]], Awaitable[set[str]]] | None = None
    events: list[Emit] = field(default_factory=list[Emit])
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ahead: int = 0

    def emit(self, frame: Emit) -> None:
        self.events.append(frame)
        if isinstance(frame, Delta) and self.acknowledge:
            if self.running is None:
                self.ahead += frame.n_bytes
            else:
                self.running.credit(frame.n_bytes)
        self.news.set()

    async def apply(self, steer_ids: list[str]) -> set[str]:
        return set(steer_ids) if self.grants is None else await self.grants(steer_ids)

    @property
    def answer(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()

    async def until_answer(self, text: str) -> None:
        await self.until(lambda: text in self.answer)

    @property
    async def outcome(self) -> Outcome:
        assert self.running is not None
        return await asyncio.shield(self.running.outcome)


@dataclass
class Hosts:
    """An open pool, with the means to run turns and to wait for what happens."""

    pool: HostPool
    changed: asyncio.Event

    async def start(self, job: TurnJob, **options: Any) -> Run:
        run = Run(**options)
        run.running = self.pool.seat(job.envelope.bundle_id).start(job, run)
        if run.ahead:
            run.running.credit(run.ahead)
        return run

    async def outcome(self, job: TurnJob) -> tuple[Run, Outcome]:
        run = await self.start(job)
        return run, await run.outcome

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits for a change of room or status that makes the condition true."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def pids(self, bundle_id: str = "test@1") -> tuple[int, ...]:
        return next(status.host_pids for status in self.pool.status() if status.id == bundle_id)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


OpenHosts = Callable[..., Any]


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[[str], str]:
    """Writes a bundle's module; ``bundle`` and the usual names are there already. Gives its folder."""

    def write(code: str, *, prelude: bool = True) -> str:
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        start = "import asyncio, os, sys, time\nfrom kdcube.sdk import Bundle, BundleError\nbundle = Bundle('test@1')\n"
        (folder / "bundle.py").write_text(start + code if prelude else code)
        return str(folder)

    return write


@pytest.fixture
def open_hosts(tmp_path: Path) -> OpenHosts:
    """``async with open_hosts(path, slots=8, limits=HostLimits(...), **entry) as hosts``; the bundle is ``test@1``.

    Without ``path`` it is the echo bundle.
    """

    @asynccontextmanager
    async def open_(
        path: str | None = "", *, slots: int = 8, group_size: int = 8, limits: HostLimits | None = None,
        clock: Callable[[], float] = time.monotonic, **entry: Any
    ) -> AsyncGenerator[Hosts]:  # fmt: skip
        if path == "":
            path = echo_as("test@1", tmp_path)
        releases = {"test@1": BundleRelease(1, BundleEntry(id="test@1", path=path, **entry))}
        changed = asyncio.Event()
        run_dir = tmp_path / "run"
        async with open_host_pool(
            releases,
            "test@1",
            slots=slots,
            group_size=group_size,
            run_dir=run_dir,
            limits=limits,
            clock=clock,
            on_change=changed.set,
            needed=releases if path else (),
        ) as pool:
            hosts = Hosts(pool, changed)
            yield hosts
            pids = [pid for status in pool.status() for pid in status.host_pids]
        assert not [pid for pid in pids if is_alive(pid)], "a host outlived its pool"
        assert not list(run_dir.iterdir()), "a host left its folder behind"

    return open_
