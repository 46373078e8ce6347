"""A folder's index as its users see it: brought up to date, and opened again when it has changed."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from kdcube.docs.indexing.place import MAX_DEATHS, Built, Progress, place_of
from kdcube.docs.indexing.scan import scan
from kdcube.docs.searching.index import Index, open_index
from kdcube.docs.settings import Settings

LOOK_INTERVAL_S = 2.0
"""How often at most questions have the folder looked at."""
LOOK_SHARE = 20
"""A look that takes long is taken more seldom: after so many times its duration."""
PATIENCE_S = 1.5
"""How long a question waits for news when there is an index already."""
_WATCH_S = 0.2


class BuildFailed(Exception):
    """The index cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Ready:
    index: Index
    behind: bool
    """The folder has changed, and the index does not know yet."""


@dataclass(frozen=True, slots=True)
class Building:
    progress: Progress | None


class Library:
    """One per process and folder. ``current`` is its one way in."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._place = place_of(settings)
        self._clock = clock
        self._index: Index | None = None
        self._identity: tuple[int, int] | None = None
        self._look_at = -float("inf")
        self._build: asyncio.Task[Built] | None = None
        self._failure: BaseException | None = None
        """Of the last build, or look."""
        self._looking = asyncio.Lock()
        self._opening = asyncio.Lock()

    async def current(self) -> Ready | Building:
        """The index, if there is one. Without one: how far its build is, after a short while; then ask again.

        Raises BuildFailed; only when there is no index to go on with.
        """
        await self._look()
        first = await self._opened() is None
        if (build := self._build) is not None:
            await asyncio.wait({build}, timeout=_WATCH_S if first else PATIENCE_S)
            if not build.done():
                if first:
                    return Building(self._place.read_progress())
            elif self._build is build:  # else another turn has seen its end
                self._build, self._failure = None, build.exception()
        index = await self._opened()
        if index is None:
            raise self._failure or BuildFailed("the index of the documents is gone")
        return Ready(index, behind=self._build is not None)

    async def close(self) -> None:
        if self._build is not None:
            self._build.cancel()
            await asyncio.wait({self._build})
        if self._index is not None:
            self._index.close()

    async def _look(self) -> None:
        """Starts a build if the folder is not as the index has it."""
        async with self._looking:
            if self._build is not None or self._clock() < self._look_at:
                return
            began = self._clock()
            try:
                if await self._has_changed():
                    self._build = asyncio.create_task(run_build(self._settings), name="docs index")
            finally:
                now = self._clock()
                self._look_at = now + max(LOOK_INTERVAL_S, LOOK_SHARE * (now - began))

    async def _has_changed(self) -> bool:
        index = await self._opened()
        try:
            found = await asyncio.to_thread(scan, self._settings)
        except OSError as error:
            if index is not None:
                return False
            self._failure = BuildFailed(f"the folder of the documents cannot be read: {error.strerror}")
            raise self._failure from error
        return index is None or await asyncio.to_thread(index.files) != found.files

    async def _opened(self) -> Index | None:
        """The index that is in place now."""
        async with self._opening:
            try:
                state = self._place.index.stat()
            except FileNotFoundError:
                return None
            if (identity := (state.st_ino, state.st_mtime_ns)) != self._identity:
                try:
                    index = await asyncio.to_thread(open_index, self._place.index)
                except sqlite3.Error:  # a build makes a new one
                    return None
                self._index, self._identity = index, identity  # who still uses the old one keeps it open
            return self._index


async def run_build(
    settings: Settings, watch: Callable[[Progress], None] = lambda _: None, stderr: int | None = None
) -> Built:
    """Brings the index up to date, in a process of its own, or waits for another one that does.

    ``watch`` hears of the progress; ``stderr`` is where the process says what it leaves out (None: where we do).
    A process that a file has ended, or holds for longer than its limit, is followed by another. Raises BuildFailed.
    """
    for _ in range(_MAX_PROCESSES):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "kdcube.docs.indexing.build"),
            env={"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
        watching = asyncio.create_task(_watch(process, settings, watch))
        try:
            said, _ = await process.communicate(msgspec.json.encode(settings))
        finally:
            watching.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.wait({watching})
        if process.returncode == 0:
            return msgspec.json.decode(said, type=Built)
        if process.returncode is None or process.returncode > 0:  # it is not a file that has ended it
            raise BuildFailed("the folder of the documents, or the cache of its index, cannot be used; see the log")
    raise BuildFailed(f"reading the documents has ended {_MAX_PROCESSES} processes; see the log")


_MAX_PROCESSES = 5 * (MAX_DEATHS + 1)
"""For one build: room for five files that end whatever reads them."""


async def _watch(process: asyncio.subprocess.Process, settings: Settings, watch: Callable[[Progress], None]) -> None:
    """Tells the progress; ends a process that reads one file for too long."""
    place = place_of(settings)
    loop = asyncio.get_running_loop()
    last, since = None, loop.time()
    while process.returncode is None:
        await asyncio.sleep(_WATCH_S)
        progress = place.read_progress()
        if progress is not None and progress != last:
            last, since = progress, loop.time()
            watch(progress)
        elif progress is not None and loop.time() - since > settings.limits.file_s:
            with suppress(ProcessLookupError):
                process.kill()
            return
