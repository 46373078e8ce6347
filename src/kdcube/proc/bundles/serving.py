"""One bundle of a proc: the release that new turns run, its hosts and those of releases before, and how one follows
another.

A release is activated beside the one before: its code is fetched, hosts load it, and only then do new turns go there.
The hosts before take no more turns and leave when theirs are done. What cannot be activated changes nothing, and is
tried again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from kdcube.proc.bundles.host import BundleHost, BundleLoadError
from kdcube.proc.bundles.jobs import BundleUnavailable
from kdcube.proc.bundles.launching import Launcher
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.seat import Seat, VersionGone
from kdcube.proc.bundles.sources.source import Code
from kdcube.telemetry.failpoints import hit

_log = structlog.get_logger("kdcube.bundle")

RESTART_BACKOFF_S = (0.0, 0.2, 1.0, 5.0)
"""Waits before a host that crashed is replaced, by the number of crashes since a turn last ended well."""
IDLE_HOST_S = 300.0
"""After so long without work a host that is not its bundle's only one leaves."""
RETRY_LOAD_S = 30.0
"""What cannot be activated is tried again when its files change, and after so long."""
_LOOK_S = 0.5


class ServedBundle:
    """``slots`` is how many turns run here at once, over all bundles; ``group_size`` how many in one process."""

    def __init__(
        self, bundle_id: str, launcher: Launcher, *, slots: Callable[[], int], group_size: int,
        on_change: Callable[[], None],
    ) -> None:  # fmt: skip
        self.id = bundle_id
        self.target: BundleRelease | None = None
        """What new turns are to run; None: the bundle is not registered (any more)."""
        self.active: BundleRelease | None = None
        """What they run: the target, or the release before it while the target is activated or cannot be."""
        self.version = ""
        """Of the code that they run."""
        self.problem: str | None = None
        """Why the target is not active, or why no host of it runs."""
        self.hosts: list[BundleHost] = []
        """Loaded, taken over and not lost; all that take turns run ``version``."""
        self.processes: set[BundleHost] = set()
        """All that are not gone."""
        self.draining = False
        self._launcher = launcher
        self._slots = slots
        self._group_size = group_size
        self._tell = on_change
        self._wanted_hosts = 1
        self._crashes = 0
        self._declared = 1
        """The attempts that the code declares which was last loaded; known also while a host that died is replaced."""
        self._launches = 0
        self._version_launch = 0
        """The number of the launch that brought this version: an older launch does not undo a newer one."""
        self._broken_version: str | None = None
        """Of a folder that last did not load."""
        self._one = asyncio.Lock()
        self._activating: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._missing = asyncio.Event()
        self._left = asyncio.Event()

    # ---- turns

    @property
    def taking(self) -> list[BundleHost]:
        return [host for host in self.hosts if not host.retiring and not host.failing]

    @property
    def occupied(self) -> int:
        return sum(host.occupied for host in self.processes)

    @property
    def max_attempts(self) -> int:
        """What the active release allows, in its code or its entry; 1 for a bundle that is not registered."""
        release = self.active or self.target
        return 1 if release is None else max(self._declared, release.entry.max_attempts)

    @property
    def unavailable(self) -> str | None:
        """Why no turn can start now; None when one can."""
        if self.target is None:
            return "it is not registered here"
        if self.taking:
            return None
        if self.problem is None and self.active is None:
            return "its code is being fetched" if self.target.entry.fetched else "it is being loaded"
        return self.problem or "its host is being replaced"

    def room(self) -> int:
        """Turns that could start now, as far as this bundle is concerned."""
        return sum(max(0, self._free(host)) for host in self.taking)

    def host(self) -> BundleHost:
        """The host with the most room. Raises BundleUnavailable."""
        hosts = self.taking
        if not hosts or self.active is None:
            raise BundleUnavailable(self.id, self.unavailable or "it is being loaded")
        return max(hosts, key=self._free)

    def seat(self) -> Seat:
        """Raises BundleUnavailable."""
        host, release = self.host(), self.active
        assert release is not None
        if self._free(host) <= 0:
            raise BundleUnavailable(self.id, "all of its hosts are full")
        seat = Seat(release, host, another=self._another, attempts=lambda: self.max_attempts)
        hosts = self.taking
        if not any(self._free(host) > 0 for host in hosts):
            most = math.ceil(self._slots() / self._group)
            wanted = min(most, 2 * len(hosts))  # full: twice as many, so that a burst is met in a few steps
            if wanted > self._wanted_hosts:
                self._wanted_hosts = wanted
                self._missing.set()
        return seat

    def _another(self, version: str) -> BundleHost:
        """A host of ``version`` for a turn whose own was lost."""
        if self.target is None or self.version != version:
            raise VersionGone(self.id, f"version {version} is served no more")
        host = self.host()
        if self._free(host) <= 0:
            raise BundleUnavailable(self.id, "all of its hosts are full")
        return host

    @property
    def _group(self) -> int:
        release = self.active or self.target
        return (release.entry.concurrency if release else None) or self._group_size

    def _free(self, host: BundleHost) -> int:
        return self._group - host.occupied

    # ---- releases

    def want(self, release: BundleRelease | None) -> None:
        """New turns are to run ``release``; with None the bundle takes no more. Running turns go on."""
        if release == self.target:
            return
        self.target = release
        if release is None:
            self.active = self.problem = None
            for host in self.taking:
                host.retire("its bundle is not registered any more")
        if self._activating is not None:
            self._activating.cancel()  # it may wait for a server that is away
        self._left.clear()
        self._news.set()
        self._look_whether_left()

    async def activate(self, release: BundleRelease) -> None:
        """New turns run ``release`` from then on, with the code that it names now. Raises BundleLoadError; then what
        they ran before goes on.
        """
        async with self._one:
            self._launches += 1
            launch, version = self._launches, ""
            staged: list[BundleHost] = []
            try:
                code = await self._launcher.code(release.entry, release.revision)
                version = code.version
                before = self.active
                if before and self.taking and version == self.version and release.fits_hosts_of(before):
                    code.release()
                else:
                    staged.append(await self._launch(release, code))
                    await self._stage_more(release, version, staged)
                    await hit("proc.activate.loaded")
                    staged = [host for host in staged if not host.lost]
                    if not staged:
                        raise BundleLoadError(self.id, "its process ended when it had loaded")
                self._move_to(release, staged, launch)
            except BaseException as error:
                for host in staged:
                    host.retire("its release is not activated")
                if isinstance(error, BundleLoadError):
                    self.problem, self._broken_version = error.reason, version
                    self._tell()
                raise

    async def _stage_more(self, release: BundleRelease, version: str, staged: list[BundleHost]) -> None:
        """As many as hold the turns that run now: what comes next shall not wait for hosts."""
        group = release.entry.concurrency or self._group_size
        missing = math.ceil(sum(host.occupied for host in self.taking) / group) - 1

        async def stage() -> None:
            with suppress(BundleLoadError):  # the first did load: the others are replaced in time
                host = await self._launch(release, await self._launcher.code(release.entry, release.revision))
                if host.version == version:
                    staged.append(host)
                else:
                    host.retire("its files have changed")

        await _side_by_side([stage() for _ in range(missing)])

    async def _launch(self, release: BundleRelease, code: Code) -> BundleHost:
        host = await self._launcher.launch(release.entry, code, self._host_changed)
        if not host.gone:
            self.processes.add(host)
        return host

    def _move_to(self, release: BundleRelease, staged: list[BundleHost], launch: int) -> None:
        """New turns go to ``staged``, or stay where they are if there are none."""
        before, self.active, self.problem = self.active, release, None
        if staged:
            self.version, self._version_launch = staged[0].version, launch
            self._declared = staged[0].max_attempts
            for host in self.taking:
                host.retire(f"release {release.number}, version {self.version} replaces it")
            self.hosts += staged
        if before is not release:
            _log.info("bundle_activated", bundle=self.id, release=release.number, version=self.version)
        self._missing.set()
        self._tell()

    # ---- keeping

    async def keep(self) -> None:
        """Follows the target and keeps as many hosts as are wanted, until the bundle is not registered and all of its
        processes have ended.
        """
        tasks = [
            asyncio.create_task(work, name=f"{name} of {self.id}")
            for name, work in (("releases", self._follow()), ("hosts", self._keep_hosts()), ("end", self._until_left()))
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _ended(tasks)

    def retire_idle(self, now: float) -> None:
        """Hosts that had nothing to do for long leave, but one."""
        idle = [host for host in self.taking if not host.busy and now - host.idle_since > IDLE_HOST_S]
        for host in idle[: len(self.taking) - 1]:
            self._wanted_hosts = max(1, self._wanted_hosts - 1)
            host.retire("nothing to do")

    async def _until_left(self) -> None:
        await self._left.wait()

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while (release := self.target) is not None and release is not self.active and not self.draining:
                self._activating = asyncio.create_task(self.activate(release), name=f"activating {self.id}")
                try:
                    await asyncio.wait({self._activating})
                finally:
                    done, self._activating = self._activating, None
                    await _ended([done])
                if done.cancelled():
                    continue
                error = done.exception()
                if isinstance(error, BundleLoadError):
                    log = _log.bind(bundle=self.id, release=release.number, reason=error.reason)
                    if self.taking:
                        log.error("bundle_not_activated", instead=self.active and self.active.number)
                    else:
                        log.error("bundle_unavailable")
                    await self._until_changed(release)
                elif error is not None:
                    raise error

    async def _keep_hosts(self) -> None:
        while True:
            await self._missing.wait()
            self._missing.clear()
            while (release := self.active) is not None and not self.draining:
                missing = self._wanted_hosts - len(self.taking)
                if missing <= 0:
                    break
                await asyncio.sleep(RESTART_BACKOFF_S[min(max(self._crashes - 1, 0), len(RESTART_BACKOFF_S) - 1)])
                try:
                    await _side_by_side([self._add_host(release) for _ in range(missing)])
                except BundleLoadError as error:
                    _log.error("bundle_unavailable", bundle=self.id, release=release.number, reason=error.reason)
                    if self.taking:
                        self._wanted_hosts = len(self.taking)  # what runs goes on with what it has
                    else:
                        self.problem = error.reason
                        self._tell()
                        await self._until_changed(release)

    async def _add_host(self, release: BundleRelease) -> None:
        """One more, of the version that is served; of a folder that has changed, of what it is now."""
        self._launches += 1
        launch = self._launches
        code = await self._launcher.code(release.entry, release.revision)
        try:
            host = await self._launch(release, code)
        except BundleLoadError:
            self._broken_version = code.version
            raise
        if release is not self.active or (host.version != self.version and launch < self._version_launch):
            host.retire("another version has replaced it")
        elif host.lost:
            raise BundleLoadError(self.id, "its process ended when it had loaded")
        elif host.version != self.version:
            self._move_to(release, [host], launch)
        else:
            self.hosts.append(host)
            self.problem = None if release is self.target else self.problem
            self._tell()

    async def _until_changed(self, release: BundleRelease) -> None:
        """Waits until another release is wanted or the files of one that does not load have changed, or for a while."""
        for _ in range(math.ceil(RETRY_LOAD_S / _LOOK_S)):
            await asyncio.sleep(_LOOK_S)
            if release not in (self.target, self.active) or (release is self.active and self.taking):
                return
            if (
                not self.taking
                and not release.entry.fetched
                and await self._version_of(release) != self._broken_version
            ):
                return

    async def is_current(self) -> bool:
        """Whether new turns run what the files of a folder say now."""
        return self.active is not None and bool(self.taking) and await self._version_of(self.active) == self.version

    async def _version_of(self, release: BundleRelease) -> str:
        try:
            code = await self._launcher.code(release.entry, release.revision)
        except BundleLoadError:
            return "unreadable"
        code.release()
        return code.version

    def _host_changed(self, host: BundleHost) -> None:
        if host.lost and host in self.hosts:
            self.hosts.remove(host)
            if not host.retiring:
                self._crashes = 1 if host.turns_ended else self._crashes + 1
        if len(self.taking) < self._wanted_hosts:
            self._missing.set()
        if host.gone:
            self.processes.discard(host)
            host.code.release()
            self._look_whether_left()
        self._tell()

    def _look_whether_left(self) -> None:
        if self.target is None and not self.processes:
            self._left.set()


async def _side_by_side(works: list[Coroutine[Any, Any, None]]) -> None:
    """Raises the first error, and then leaves off the others."""
    # No TaskGroup: a cancellation that meets an error in it is lost, and the pool would not close.
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _ended(tasks)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
