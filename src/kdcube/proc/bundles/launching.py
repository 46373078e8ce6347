"""From a release to a process that runs it: its code, and a host that has loaded it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.environments.environments import Environments
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.figures import HostFigures
from kdcube.proc.bundles.host import BundleHost, BundleLoadError, HostLimits
from kdcube.proc.bundles.limits import Machine, ProcessLimits, warn_of_limits
from kdcube.proc.bundles.losses import Losses
from kdcube.proc.bundles.sources.source import Code, SourceError, Sources


@dataclass(frozen=True, slots=True)
class Prepared:
    """A release that loads: the commit that it was resolved to (None for a folder) and the version of its code."""

    revision: str | None
    version: str


class CodeMissing(BundleLoadError):
    """Its code, or what it needs, cannot be had now; it may be had later."""


class Launcher:
    """Starts hosts. ``bounded`` gives an entry the limits of this installation."""

    def __init__(
        self, sources: Sources, environments: Environments | None, *, run_dir: Path, pulse_fd: int, limits: HostLimits,
        clock: Callable[[], float], bounded: Callable[[BundleEntry], BundleEntry], losses: Losses,
        figures: HostFigures,
    ) -> None:  # fmt: skip
        self._sources = sources
        self._environments = environments
        self._run_dir = run_dir
        self._pulse_fd = pulse_fd
        self._limits = limits
        self._bounded = bounded
        self._losses = losses
        self._figures = figures
        self._machine = Machine.here()
        self._numbers = count()
        self.clock = clock

    async def code(self, entry: BundleEntry, revision: str | None) -> Code:
        """To be released by whoever gets it. Raises BundleLoadError."""
        try:
            return await self._sources.code(entry, revision)
        except SourceError as error:
            raise CodeMissing(entry.id, str(error)) from error

    async def launch(self, entry: BundleEntry, code: Code, on_change: Callable[[BundleHost], None]) -> BundleHost:
        """A host that has loaded ``code`` in its environment; its ``code`` lets go of both. Raises BundleLoadError."""

        def changed(host: BundleHost) -> None:
            self._losses.look_at(host)
            on_change(host)

        warn_of_limits(entry, self._machine)
        python = sys.executable
        try:
            if self._environments is not None:
                interpreter = await self._environments.prepared(code, entry)
                code, python = code.with_release(interpreter.release), interpreter.path
            host = await BundleHost.launch(
                self._bounded(entry), code, run_dir=self._run_dir, pulse_fd=self._pulse_fd, limits=self._limits,
                process_limits=ProcessLimits.of(entry, self._machine, next(self._numbers)), clock=self.clock,
                on_change=changed, python=python,
            )  # fmt: skip
        except BaseException as error:
            code.release()
            if isinstance(error, EnvironmentNotBuilt):
                raise (CodeMissing if error.later else BundleLoadError)(entry.id, str(error)) from error
            raise
        self._figures.started(entry.id)
        return host

    async def try_out(self, entry: BundleEntry, revision: str | None) -> Prepared:
        """Whether the bundle loads, in a host that takes no turns and has left when this returns.

        Without a ``revision`` it is what ``git_ref`` names now. Raises BundleLoadError.
        """
        gone = asyncio.Event()
        if revision is None:
            try:
                revision = await self._sources.resolve(entry)
            except SourceError as error:
                raise CodeMissing(entry.id, str(error)) from error
        code = await self.code(entry, revision)
        host = await self.launch(entry, code, lambda host: gone.set() if host.gone else None)
        try:
            host.retire("it was a trial")
            await gone.wait()
        finally:
            await host.kill("killed")
            host.code.release()
        return Prepared(revision, code.version)
