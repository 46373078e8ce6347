"""The environments of all bundles of a proc, in ``KDCUBE_HOME/environments``, which procs may share.

Taking one that is there costs reading the files that decide about it. Building has threads of its own, so that it keeps
nothing else waiting. Made by ``open_environments``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import structlog

import kdcube
from kdcube.config.bundles import BundleEntry
from kdcube.config.environments import EnvironmentSettings
from kdcube.proc.bundles.environments.build import build, record
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.environments.store import EnvironmentStore
from kdcube.proc.bundles.environments.uv import Uv
from kdcube.proc.bundles.environments.wanted import Wanted, wanted_environment
from kdcube.proc.bundles.sources.source import Code
from kdcube.telemetry.failpoints import failpoint

_log = structlog.get_logger("kdcube.bundle")
_LAYOUT = 1
"""To be raised when environments are built in another way, so that the old ones are not taken."""
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that a bundle's hosts are started with."""

    path: str = sys.executable
    digest: str = ""
    """Of its environment; empty for proc's own."""
    release: Callable[[], None] = lambda: None
    """To be called when nothing runs it any more; a second call does nothing."""


class Environments:
    """What bundles run in. ``quiet`` logs nothing of what is built."""

    def __init__(
        self, root: Path, settings: EnvironmentSettings, *, quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._quiet = quiet
        self._settings = settings
        self._clock = clock
        self._stopping = threading.Event()
        self._store = EnvironmentStore(root, settings, stopping=self._stopping, clock=clock)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="environments")

    async def ready(self, entry: BundleEntry) -> bool:
        """Of a bundle in a folder: whether ``prepared`` would build nothing, also because it would fail at once."""
        try:
            found = await asyncio.to_thread(self._here, entry.path or "", entry.module)
        except EnvironmentNotBuilt:
            return True
        if found is not None:
            found.release()
        return found is not None

    async def prepared(self, code: Code, entry: BundleEntry) -> Interpreter:
        """The Python for this code, held until it is released: proc's own where no file of the bundle decides
        otherwise, else that of an environment, which is built unless it is here. Raises EnvironmentNotBuilt.
        """
        path, module = code.path, entry.module
        found = await asyncio.to_thread(self._here, path, module)
        if found is not None:
            return found
        building = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: self._built(path, module, entry.id)
        )
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            building.add_done_callback(_let_go)
            raise

    def close(self) -> None:
        """Ends what is being built."""
        self._stopping.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ---- in threads

    def _here(self, path: str, module: str | None) -> Interpreter | None:
        wanted = _wanted(path, module)
        return Interpreter() if wanted is None else self._held(_digest(wanted))

    def _held(self, digest: str) -> Interpreter | None:
        held = self._store.hold(digest)
        return None if held is None else Interpreter(str(held[0] / "bin" / "python"), digest, held[1])

    def _built(self, path: str, module: str | None, bundle_id: str) -> Interpreter:
        wanted = _wanted(path, module)
        if wanted is None:
            return Interpreter()
        digest = _digest(wanted)
        try:
            with self._store.building(digest) as (folder, lock_fd):
                found = self._held(digest)  # by whoever had the lock before
                if found is None:
                    self._build(wanted, digest, folder, lock_fd, bundle_id)
                    found = self._held(digest)
                if found is None:
                    raise EnvironmentNotBuilt("it was removed while it was wanted", wanted.file, later=True)
                return found
        except OSError as error:
            raise EnvironmentNotBuilt(
                f"{error.strerror or error} ({error.filename})", wanted.file, later=True
            ) from error

    def _build(self, wanted: Wanted, digest: str, folder: Path, lock_fd: int, bundle_id: str) -> None:
        began, store = time.monotonic(), self._store
        work, environment = folder / "work", folder / "environment"
        work.mkdir(mode=0o700)
        uv = Uv(
            self._settings, work=work, cache=store.cache, stopping=self._stopping, lock_fd=lock_fd,
            too_large=lambda: store.too_large(folder), clock=self._clock,
        )  # fmt: skip
        name = f"{_resolution_name(wanted)}.txt"
        chosen = None if wanted.kind.resolved else store.resolution(name)
        installed = build(wanted, environment, uv, work, self._settings, chosen)
        if not wanted.kind.resolved and chosen is None:
            store.record_resolution(name, installed)
        failpoint("proc.environment.built")
        store.finish(digest, environment, record(wanted, began))
        if not self._quiet:
            seconds = round(time.monotonic() - began, 3)
            _log.info("environment_built", bundle=bundle_id, environment=digest[:12], seconds=seconds)
        store.collect()
        if store.cache_too_large():
            try:
                uv.run("cache", "clean")
            except EnvironmentNotBuilt as error:  # the environment is there all the same
                if not self._quiet:
                    _log.warning("environments_cache_not_cleaned", reason=error.reason)


def _let_go(building: asyncio.Future[Interpreter]) -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().release()


def _wanted(path: str, module: str | None) -> Wanted | None:
    try:
        return wanted_environment(path, module)
    except OSError as error:
        raise EnvironmentNotBuilt(f"{error.filename} cannot be read: {error.strerror}") from error


def _digest(wanted: Wanted) -> str:
    """Of all that decides what is in an environment, and whether it works here."""
    facts = [_LAYOUT, wanted.digest, sys.version, os.path.realpath(sys.executable), *_platform()]
    facts += [kdcube.__version__, str(Path(kdcube.__file__).parent), metadata.version("msgspec")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _resolution_name(wanted: Wanted) -> str:
    """Without what changes often: another version of KDCube or of the same Python resolves nothing anew."""
    facts = [wanted.digest, *sys.version_info[:2], sys.implementation.name, *_platform()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _platform() -> tuple[str, str]:
    return sysconfig.get_platform(), os.confstr("CS_GNU_LIBC_VERSION") or ""


@contextmanager
def open_environments(root: Path, settings: EnvironmentSettings, *, quiet: bool = False) -> Generator[Environments]:
    environments = Environments(root, settings, quiet=quiet)
    try:
        yield environments
    finally:
        environments.close()
