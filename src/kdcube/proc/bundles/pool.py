"""The bundles of one proc: which there are, which has room, and what they have to be given.

Each bundle keeps hosts of its own (``serving.py``), of ``group_size`` turns each, up to the slots of this proc.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.environments.environments import Environments
from kdcube.proc.bundles.figures import HostFigures
from kdcube.proc.bundles.host import BundleHost, BundleLoadError, HostLimits
from kdcube.proc.bundles.jobs import BundleUnavailable
from kdcube.proc.bundles.launching import Launcher, Prepared
from kdcube.proc.bundles.losses import Losses, Lost
from kdcube.proc.bundles.pulse import Pulse
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.seat import Seat
from kdcube.proc.bundles.serving import ServedBundle
from kdcube.proc.bundles.slots import IN_USE_S, room_of
from kdcube.proc.bundles.sources.source import Fetching, Sources
from kdcube.telemetry.instruments import Instruments

_log = structlog.get_logger("kdcube.bundle")


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """``unavailable`` says why no turn can start now; None when one can. ``release`` is the number of the one that new
    turns run, and ``problem`` says why it is not the one that is to be run.
    """

    id: str
    version: str
    release: int | None
    default: bool
    host_pids: tuple[int, ...]
    running: int
    operations: tuple[str, ...]
    unavailable: str | None
    problem: str | None
    lost: Lost


class HostPool:
    """Made by ``open_host_pool``."""

    def __init__(
        self, sources: Sources, environments: Environments | None, *, slots: int, group_size: int, run_dir: Path,
        limits: HostLimits,
        clock: Callable[[], float], on_change: Callable[[], None], bounded: Callable[[BundleEntry], BundleEntry],
        figures: HostFigures,
    ) -> None:  # fmt: skip
        self.slots = slots
        """May be changed: what runs goes on."""
        self._group_size = group_size
        self._limits = limits
        self._clock = clock
        self._tell = on_change
        self._default: str | None = None
        self._served: dict[str, ServedBundle] = {}
        self._begun_at: dict[str, float] = {}
        """When a turn was begun last, by bundle."""
        self.pulse = Pulse()
        """To be beaten twice a second or so while leases may be renewed; before the first beat hosts do not look."""
        self._losses = Losses(figures)
        self._figures = figures
        figures.watch(lambda: {id_: [host.pid for host in of.processes] for id_, of in self._served.items()})
        self._launcher = Launcher(
            sources, environments, run_dir=run_dir, pulse_fd=self.pulse.fd, limits=limits, clock=clock,
            bounded=bounded, losses=self._losses, figures=figures,
        )  # fmt: skip
        self._draining = False
        self._keepers: set[asyncio.Task[None]] | None = None
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keeping: asyncio.Task[None]
        """Runs as long as the pool is open. When it ends before, nothing is kept or watched: proc is broken."""

    # ---- turns

    def room(self) -> dict[str, int]:
        """Bundle id -> turns that could start now; bundles without room are left out."""
        if self._draining:
            return {}
        held = {bundle_id: served.occupied for bundle_id, served in self._served.items()}
        shares = room_of(self.slots, held, self._in_use())
        room = {bundle_id: min(shares[bundle_id], served.room()) for bundle_id, served in self._served.items()}
        return {bundle_id: free for bundle_id, free in room.items() if free > 0}

    def _in_use(self) -> set[str]:
        since = self._clock() - IN_USE_S
        self._begun_at = {
            bundle_id: at for bundle_id, at in self._begun_at.items() if at > since and bundle_id in self._served
        }
        return {bundle_id for bundle_id in self._begun_at if self._served[bundle_id].target is not None}

    def seat(self, bundle_id: str) -> Seat:
        """Room for one turn, which will run the version that it has now. Raises BundleUnavailable."""
        seat = self._one(bundle_id).seat()
        self._begun_at[bundle_id] = self._clock()
        return seat

    def max_attempts(self, bundle_id: str) -> int:
        """What the bundle declares, in its code or its registry entry. Raises BundleUnavailable if nobody knows it."""
        return self._known(bundle_id).max_attempts

    def for_calls(self, bundle_id: str) -> BundleHost:
        """The host for the next operation of this bundle: the one with the least to do. Raises BundleUnavailable."""
        served = self._one(bundle_id)
        served.host()
        return min(served.taking, key=lambda host: host.running + host.calling)

    def _one(self, bundle_id: str) -> ServedBundle:
        served = self._known(bundle_id)
        if self._draining:
            raise BundleUnavailable(bundle_id, "this proc is draining")
        return served

    def _known(self, bundle_id: str) -> ServedBundle:
        served = self._served.get(bundle_id)
        if served is None or served.target is None:
            raise BundleUnavailable(bundle_id, "it is not registered here")
        return served

    # ---- releases

    def apply(self, releases: Mapping[str, BundleRelease], default: str | None) -> None:
        """These are to be run from now on, and no others. Each is activated beside what its bundle runs; running turns
        finish on theirs.
        """
        self._default = default
        for bundle_id in self._served.keys() - releases.keys():
            self._served[bundle_id].want(None)
        for bundle_id, release in releases.items():
            served = self._served.get(bundle_id)
            if served is None:
                served = self._served[bundle_id] = ServedBundle(
                    bundle_id, self._launcher, slots=lambda: self.slots, group_size=self._group_size,
                    on_change=self._tell,
                )  # fmt: skip
                served.draining = self._draining
                self._keep(served)
            served.want(release)
        self._tell()

    async def try_out(self, entry: BundleEntry, revision: str | None) -> Prepared:
        """Whether a release of ``entry`` loads. Nothing of it takes turns. Raises BundleLoadError.

        Without a ``revision`` it is what ``git_ref`` names now; None for a folder.
        """
        return await self._launcher.try_out(entry, revision)

    async def reload(self, bundle_id: str) -> str:
        """New turns run what a folder's files say now; running ones finish on theirs. Returns the version.

        Raises BundleLoadError; then the old version goes on. Raises BundleUnavailable for an unknown bundle.
        """
        served = self._known(bundle_id)
        release = served.target
        assert release is not None
        await served.activate(release)
        return served.version

    async def is_current(self, bundle_id: str) -> bool:
        """Whether new turns run what a folder's files say now."""
        return await self._known(bundle_id).is_current()

    def folders(self) -> dict[str, BundleEntry]:
        """The bundles whose code is in a folder of this machine."""
        targets = {bundle_id: served.target for bundle_id, served in self._served.items()}
        return {id_: release.entry for id_, release in targets.items() if release and not release.entry.fetched}

    # ---- operation of the pool

    def drain(self) -> None:
        """No new turns from now on; running ones go on."""
        self._draining = True
        for served in self._served.values():
            served.draining = True
        self._tell()

    def status(self) -> list[BundleStatus]:
        return [
            BundleStatus(
                id=bundle_id,
                version=served.version,
                release=served.active and served.active.number,
                default=bundle_id == self._default,
                host_pids=tuple(host.pid for host in served.hosts),
                running=sum(host.running for host in served.hosts),
                operations=tuple(served.hosts[-1].operations) if served.hosts else (),
                unavailable=served.unavailable,
                problem=served.problem,
                lost=self._losses.of(bundle_id),
            )
            for bundle_id, served in self._served.items()
        ]

    async def load(self, bundle_ids: Collection[str]) -> None:
        """Activates what proc does not start without. Raises the first BundleLoadError.

        The rest comes by ``keep``: what has to be fetched keeps nobody waiting, and may come later.
        """
        needed = [
            asyncio.create_task(served.activate(served.target))
            for served in self._served.values()
            if served.target is not None and served.id in bundle_ids
        ]
        try:
            await asyncio.gather(*needed)
        finally:
            for task in needed:
                task.cancel()
            await asyncio.gather(*needed, return_exceptions=True)

    async def keep(self) -> None:
        """Keeps the hosts of all bundles and watches them, until it is cancelled."""
        self._keepers = set()
        watching = asyncio.create_task(self._watch(), name="bundle hosts' limits")
        try:
            for served in self._served.values():
                self._keep(served)
            await asyncio.wait({watching, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (watching, self._broken):
                if ended.done():
                    ended.result()
        except Exception:
            _log.critical("host_pool_failed", exc_info=True)
            self.drain()  # unwatched hosts take nothing new
            raise
        finally:
            keepers, self._keepers = self._keepers, None
            for task in (watching, *keepers):
                task.cancel()
            await asyncio.gather(watching, *keepers, return_exceptions=True)

    async def close(self) -> None:
        """Kills every host and waits for their ends."""
        self._draining = True
        hosts = [host for served in self._served.values() for host in served.processes]
        await asyncio.gather(*(host.kill("killed") for host in hosts))
        self.pulse.close()

    def _keep(self, served: ServedBundle) -> None:
        if self._keepers is not None:
            task = asyncio.create_task(self._keep_until_left(served), name=f"hosts of {served.id}")
            self._keepers.add(task)
            task.add_done_callback(self._kept)

    async def _keep_until_left(self, served: ServedBundle) -> None:
        while served.target is not None or served.processes:
            await served.keep()
        del self._served[served.id]
        self._tell()

    def _kept(self, task: asyncio.Task[None]) -> None:
        if self._keepers is None:
            return
        self._keepers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _watch(self) -> None:
        before = self._clock()
        while True:
            await asyncio.sleep(self._limits.watch_interval_s)
            now = self._clock()
            for served in list(self._served.values()):
                for host in list(served.processes):
                    lag_s = host.watch(now - before)
                    if lag_s is not None:
                        self._figures.lag(served.id, lag_s)
                served.retire_idle(now)
            before = now


@asynccontextmanager
async def open_host_pool(
    releases: Mapping[str, BundleRelease], default: str | None = None, *, slots: int, group_size: int = 8,
    run_dir: Path, limits: HostLimits | None = None, clock: Callable[[], float] = time.monotonic,
    on_change: Callable[[], None] = lambda: None, figures: HostFigures | None = None,
    git: Fetching | None = None, environments: Environments | None = None,
    needed: Collection[str] = (), bounded: Callable[[BundleEntry], BundleEntry] = lambda entry: entry,
) -> AsyncGenerator[HostPool]:  # fmt: skip
    """Starts the hosts of all releases, as ``keep`` says; kills all hosts at the end. Those without a folder come from
    ``git``. ``environments``: what they run in; None is proc's own Python for all.

    ``slots``: turns that run here at once, over all bundles; ``group_size``: at most so many in one process.
    ``run_dir`` gets a private folder for each host. ``clock`` is monotonic, in seconds. ``on_change`` is called when
    ``room`` or ``status`` may have changed; it must not wait. ``figures`` counts.
    ``bounded`` gives an entry the limits of this place.
    Raises BundleLoadError when a bundle that is ``needed`` does not load: it is there when the pool is open.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 - once, at start
    pool = HostPool(
        Sources(git), environments, slots=slots, group_size=group_size, run_dir=run_dir, limits=limits or HostLimits(),
        clock=clock, on_change=on_change, bounded=bounded,
        figures=figures or HostFigures(Instruments()),
    )  # fmt: skip
    try:
        pool.apply(releases, default)
        await pool.load(needed)
        pool.keeping = asyncio.get_running_loop().create_task(pool.keep(), name="bundle hosts")
        try:
            yield pool
        finally:
            pool.keeping.cancel()
            await asyncio.wait({pool.keeping})
    finally:
        await pool.close()


__all__ = ["BundleLoadError", "BundleStatus", "HostPool", "open_host_pool"]
