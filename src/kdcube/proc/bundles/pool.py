"""The bundle hosts of one proc: which exist, which has room, and what follows when one dies.

A bundle has hosts of ``group_size`` turns each. One is started when the pool opens (as soon as its code is there, for
code that has to be fetched); more are started when all are
full, up to the slots of this proc, and leave again when they have long had nothing to do.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.proc.bundles.host import BundleHost, BundleLoadError, HostLimits, OperationFailed, RunningTurn
from kdcube.proc.bundles.jobs import BundleUnavailable, TurnJob, TurnSink
from kdcube.proc.bundles.pulse import Pulse
from kdcube.proc.bundles.sources.git_source import GitStore
from kdcube.proc.bundles.sources.source import Code, FolderSource, Source, SourceError
from kdcube.sdk.wire import User

_log = structlog.get_logger("kdcube.bundle")

RESTART_BACKOFF_S = (0.0, 0.2, 1.0, 5.0)
"""Waits before a host that crashed is replaced, by the number of crashes since a turn last ended well."""
IDLE_HOST_S = 300.0
"""After so long without work a host that is not its bundle's only one leaves."""
RETRY_LOAD_S = 30.0
"""A bundle that does not load is tried again when its files change, and after so long."""
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """``unavailable`` says why no turn can start now; None when one can."""

    id: str
    version: str
    default: bool
    host_pids: tuple[int, ...]
    running: int
    operations: tuple[str, ...]
    unavailable: str | None


class _Served:
    """A bundle and its hosts."""

    def __init__(self, entry: BundleEntry, source: Source) -> None:
        self.entry = entry
        self.source = source
        self.hosts: list[BundleHost] = []
        """Loaded and not lost; all that take turns are of one version."""
        self.wanted = 1
        self.crashes = 0
        self.unavailable: str | None = "it is being loaded"
        self.broken_version: str | None = None
        """Of the code that last did not load."""
        self.max_attempts = entry.max_attempts
        """What the code that was last loaded declares, or the entry; known also while a host that died is replaced."""
        self.version = ""
        self.version_order = 0
        """The order of the launch that brought this version: an older launch does not undo a newer one."""
        self.wake = asyncio.Event()

    @property
    def taking(self) -> list[BundleHost]:
        return [host for host in self.hosts if not host.retiring]


class HostPool:
    """Made by ``open_host_pool``."""

    def __init__(
        self, registry: BundleRegistry, *, slots: int, group_size: int, run_dir: Path, limits: HostLimits,
        clock: Callable[[], float], on_change: Callable[[], None], git: GitStore | None,
    ) -> None:  # fmt: skip
        self.slots = slots
        """May be changed: what runs goes on."""
        self._group_size = group_size
        self._run_dir = run_dir
        self._limits = limits
        self._clock = clock
        self._tell = on_change
        self._default = registry.default_bundle_id
        self._served = {bundle_id: _Served(entry, _source(entry, git)) for bundle_id, entry in registry.bundles.items()}
        self._all: set[BundleHost] = set()
        self.pulse = Pulse()
        """To be beaten twice a second or so while leases may be renewed; before the first beat hosts do not look."""
        self._launches = 0
        self._draining = False
        self.keeping: asyncio.Task[None]
        """Runs as long as the pool is open. When it ends before, nothing is kept or watched: proc is broken."""

    # ---- turns

    def room(self) -> dict[str, int]:
        """Bundle id -> turns that could start now; bundles without room are left out."""
        if self._draining:
            return {}
        slots = self.slots - sum(host.running for host in self._all)
        room: dict[str, int] = {}
        for bundle_id, served in self._served.items():
            free = min(slots, sum(self._free(served, host) for host in served.taking))
            if free > 0:
                room[bundle_id] = free
        return room

    def version(self, bundle_id: str) -> str:
        """Content hash or commit of what a turn of this bundle would run now. Raises BundleUnavailable."""
        self._taking(bundle_id)
        return self._served[bundle_id].version

    def max_attempts(self, bundle_id: str) -> int:
        """What the bundle declares, in its code or its registry entry. Raises BundleUnavailable if nobody knows it."""
        served = self._served.get(bundle_id)
        if served is None:
            raise BundleUnavailable(bundle_id, "it is not registered here")
        return served.max_attempts

    async def start(self, job: TurnJob, sink: TurnSink) -> RunningTurn:
        """Hands the turn to a host with room. Raises BundleUnavailable or TurnTooLarge; then nothing has run."""
        bundle_id = job.envelope.bundle_id
        hosts = self._taking(bundle_id)
        served = self._served[bundle_id]
        host = max(hosts, key=lambda host: self._free(served, host))
        if self._free(served, host) <= 0:
            raise BundleUnavailable(bundle_id, "all of its hosts are full")
        turn = host.start(job, sink)
        if not any(self._free(served, host) > 0 for host in hosts):
            most = math.ceil(self.slots / self._group(served))
            wanted = min(most, 2 * len(hosts))  # full: twice as many, so that a burst is met in a few steps
            if wanted > served.wanted:
                served.wanted = wanted
                served.wake.set()
        return turn

    async def operate(
        self, bundle_id: str, operation: str, data: Any, *, user: User, config: dict[str, Any],
        secrets: dict[str, str], timeout_s: float,
    ) -> Any:  # fmt: skip
        """Runs an operation; its answer is JSON. Raises BundleUnavailable, OperationFailed, TurnTooLarge."""
        host = min(self._taking(bundle_id), key=lambda host: host.running)
        try:
            async with asyncio.timeout(timeout_s):
                return await host.operate(operation, data, user=user, config=config, secrets=secrets)
        except TimeoutError as error:
            raise OperationFailed("timeout", f"The operation took longer than {timeout_s:g} s.") from error

    def _taking(self, bundle_id: str) -> list[BundleHost]:
        served = self._served.get(bundle_id)
        if served is None:
            raise BundleUnavailable(bundle_id, "it is not registered here")
        if self._draining:
            raise BundleUnavailable(bundle_id, "this proc is draining")
        hosts = served.taking
        if not hosts:
            raise BundleUnavailable(bundle_id, served.unavailable or "its host is being replaced")
        return hosts

    def _group(self, served: _Served) -> int:
        return served.entry.concurrency or self._group_size

    def _free(self, served: _Served, host: BundleHost) -> int:
        return self._group(served) - host.running

    # ---- operation of the pool

    def drain(self) -> None:
        """No new turns from now on; running ones go on."""
        self._draining = True
        self._tell()

    async def reload(self, bundle_id: str) -> str:
        """New turns run what the source says now; running ones finish on theirs. Returns the version.

        Raises BundleLoadError; then the old version goes on. Raises BundleUnavailable for an unknown bundle.
        """
        served = self._served.get(bundle_id)
        if served is None:
            raise BundleUnavailable(bundle_id, "it is not registered here")
        await self._launch(served, again=True)
        return served.version

    async def is_current(self, bundle_id: str) -> bool:
        """Whether new turns run what the files say now; of a bundle that is fetched, what was fetched last."""
        served = self._served[bundle_id]
        return bool(served.taking) and await self._version(served) == served.version

    def status(self) -> list[BundleStatus]:
        return [
            BundleStatus(
                id=bundle_id,
                version=served.version,
                default=bundle_id == self._default,
                host_pids=tuple(host.pid for host in served.hosts),
                running=sum(host.running for host in served.hosts),
                operations=served.hosts[-1].operations if served.hosts else (),
                unavailable=None if served.taking else served.unavailable or "its host is being replaced",
            )
            for bundle_id, served in self._served.items()
        ]

    async def load_all(self) -> None:
        """Starts one host of each bundle whose code is here. Raises the first BundleLoadError.

        For the others ``keep`` does it: what has to be fetched keeps nobody waiting, and may come later.
        """
        for served in self._served.values():
            if served.source.remote:
                served.unavailable = "its code is being fetched"
                served.wake.set()
        await self._launch_all([served for served in self._served.values() if not served.source.remote])

    async def keep(self) -> None:
        """Keeps as many hosts as are wanted and watches them, until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(), name="bundle hosts' limits")
                for bundle_id, served in self._served.items():
                    group.create_task(self._keep(served), name=f"hosts of {bundle_id}")
        except* Exception:
            _log.critical("host_pool_failed", exc_info=True)
            self.drain()  # unwatched hosts take nothing new
            raise

    async def close(self) -> None:
        """Kills every host and waits for their ends."""
        self._draining = True
        await asyncio.gather(*(host.kill("killed") for host in list(self._all)))
        self.pulse.close()

    async def _watch(self) -> None:
        before = self._clock()
        while True:
            await asyncio.sleep(self._limits.watch_interval_s)
            now = self._clock()
            for host in list(self._all):
                host.watch(now - before)
            for served in self._served.values():
                idle = [host for host in served.taking if not host.busy and now - host.idle_since > IDLE_HOST_S]
                for host in idle[: len(served.taking) - 1]:
                    served.wanted = max(1, served.wanted - 1)
                    host.retire("nothing to do")
            before = now

    async def _keep(self, served: _Served) -> None:
        while True:
            await served.wake.wait()
            served.wake.clear()
            while not self._draining and (missing := served.wanted - len(served.taking)) > 0:
                await asyncio.sleep(RESTART_BACKOFF_S[min(max(served.crashes - 1, 0), len(RESTART_BACKOFF_S) - 1)])
                try:
                    await self._launch_all([served] * missing)
                except BundleLoadError as error:
                    _log.error("bundle_unavailable", bundle=served.entry.id, reason=error.reason)
                    if served.taking:
                        served.wanted = len(served.taking)  # what runs goes on with what it has
                    else:
                        await self._until_changed(served)

    async def _until_changed(self, served: _Served) -> None:
        """Waits until the files of a bundle that does not load have changed, or for a while."""
        for _ in range(math.ceil(RETRY_LOAD_S / _LOOK_S)):
            await asyncio.sleep(_LOOK_S)
            if served.taking:
                return
            if not served.source.remote and await self._version(served) != served.broken_version:
                return

    async def _launch_all(self, each: list[_Served]) -> None:
        """One host for each, side by side. Raises the first BundleLoadError, and then leaves off the others."""
        # No TaskGroup: a cancellation that meets an error in it is lost, and the pool would not close.
        launches = [asyncio.get_running_loop().create_task(self._launch(served)) for served in each]
        try:
            await asyncio.gather(*launches)
        finally:
            for launch in launches:
                launch.cancel()
            await asyncio.gather(*launches, return_exceptions=True)

    async def _launch(self, served: _Served, *, again: bool = False) -> None:
        """Adds a host with the bundle's code, or with what its source says now, ``again``. Hosts of an older version
        retire. Raises BundleLoadError.
        """
        self._launches += 1
        order = self._launches
        code: Code | None = None
        try:
            code = await (served.source.latest() if again else served.source.current())
            if again and served.source.remote and served.taking and code.version == served.version:
                code.release()
                return
            host = await self._start(served, code)
        except (SourceError, BundleLoadError) as error:
            reason = error.reason if isinstance(error, BundleLoadError) else str(error)
            served.unavailable, served.broken_version = reason, code and code.version
            self._tell()
            before = None if code is None or served.taking else await self._before(served, code)
            if before is None:
                raise BundleLoadError(served.entry.id, reason) from error
            _log.error("bundle_unavailable", bundle=served.entry.id, reason=reason, instead=before.version)
            code, host = before, await self._start(served, before)
        self._all.add(host)
        if order >= served.version_order:
            await served.source.accepted(code)
            if host.lost:
                raise BundleLoadError(served.entry.id, "its process ended when it had loaded")
        served.hosts.append(host)
        served.unavailable = None
        served.max_attempts = max(host.max_attempts, served.entry.max_attempts)
        if code.version != served.version and order > served.version_order:
            served.version, served.version_order = code.version, order
        for other in served.taking:
            if other.version != served.version:
                other.retire(f"version {served.version} replaces it")
        served.wake.set()
        self._tell()

    async def _start(self, served: _Served, code: Code) -> BundleHost:
        try:
            return await BundleHost.launch(
                served.entry, code, run_dir=self._run_dir, pulse_fd=self.pulse.fd, limits=self._limits,
                clock=self._clock, on_change=lambda host: self._host_changed(served, host),
            )  # fmt: skip
        except BaseException:
            code.release()
            raise

    async def _before(self, served: _Served, code: Code) -> Code | None:
        try:
            return await served.source.before(code)
        except SourceError as error:
            _log.error("bundle_not_fetched", bundle=served.entry.id, reason=str(error))
            return None

    async def _version(self, served: _Served) -> str:
        try:
            code = await served.source.current()
        except SourceError:
            return "unreadable"
        code.release()
        return code.version

    def _host_changed(self, served: _Served, host: BundleHost) -> None:
        if host.lost and host in served.hosts:
            served.hosts.remove(host)
            if not host.retiring:
                served.crashes = 1 if host.turns_ended else served.crashes + 1
        if len(served.taking) < served.wanted:
            served.wake.set()
        if host.gone:
            self._all.discard(host)
            host.code.release()
        self._tell()


def _source(entry: BundleEntry, git: GitStore | None) -> Source:
    if entry.path is not None or entry.git_url is None:
        return FolderSource(entry)
    if git is None:
        raise BundleLoadError(entry.id, "it has git_url but no path, and this pool has no store for git")
    return git.source(entry)


@asynccontextmanager
async def open_host_pool(
    registry: BundleRegistry, *, slots: int, group_size: int = 8, run_dir: Path, limits: HostLimits | None = None,
    clock: Callable[[], float] = time.monotonic, on_change: Callable[[], None] = lambda: None,
    git: GitStore | None = None,
) -> AsyncGenerator[HostPool]:  # fmt: skip
    """Starts one host of each bundle; kills all hosts at the end. Bundles without a folder come from ``git``.

    ``slots``: turns that run here at once, over all bundles; ``group_size``: at most so many in one process.
    ``run_dir`` gets a private folder for each host. ``clock`` is monotonic, in seconds. ``on_change`` is called when
    ``room`` or ``status`` may have changed; it must not wait. Raises BundleLoadError when a bundle does not load.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 - once, at start
    pool = HostPool(
        registry, slots=slots, group_size=group_size, run_dir=run_dir, limits=limits or HostLimits(), clock=clock,
        on_change=on_change, git=git,
    )  # fmt: skip
    try:
        await pool.load_all()
        pool.keeping = asyncio.get_running_loop().create_task(pool.keep(), name="bundle hosts")
        try:
            yield pool
        finally:
            pool.keeping.cancel()
            await asyncio.wait({pool.keeping})
    finally:
        await pool.close()
