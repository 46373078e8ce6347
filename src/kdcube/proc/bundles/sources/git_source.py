"""Bundles from git: pinned to a commit, fetched at start and when they are reloaded, served on when the remote is away.

Fetching has threads of its own, so that a slow server keeps nothing else waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitAddress, GitSettings
from kdcube.proc.bundles.content import VERSION_DIGITS
from kdcube.proc.bundles.sources.repository import Repository
from kdcube.proc.bundles.sources.source import Code, SourceError

_log = structlog.get_logger("kdcube.bundle")
_THREADS = 4

T = TypeVar("T")


class GitStore:
    """All repositories of a proc, in ``KDCUBE_HOME/git``, which procs may share. Made by ``open_git_store``."""

    def __init__(self, root: Path, settings: GitSettings) -> None:
        self._root = root
        self._settings = settings
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="git")

    def source(self, entry: BundleEntry) -> GitSource:
        """Raises ConfigurationError when the settings do not fit the entry's address."""
        assert entry.git_url is not None
        address = GitAddress.parse(entry.git_url)
        self._settings.check(address)
        repository = Repository(self._root, address, self._settings, stopping=self._stopping)
        return GitSource(entry, repository, self)

    async def call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Ends what is being fetched."""
        self._stopping.set()
        self._threads.shutdown(wait=True, cancel_futures=True)


@contextmanager
def open_git_store(root: Path, settings: GitSettings) -> Generator[GitStore]:
    store = GitStore(root, settings)
    try:
        yield store
    finally:
        store.close()


class GitSource:
    """One bundle of a repository."""

    remote = True

    def __init__(self, entry: BundleEntry, repository: Repository, store: GitStore) -> None:
        self._id = entry.id
        self._ref = entry.git_ref
        self._subdir = entry.git_subdir or "."
        self._repository = repository
        self._store = store
        self._pinned: str | None = None
        self._one = asyncio.Lock()

    async def latest(self) -> Code:
        async with self._one:  # several at once would fetch the same
            commit = await self._store.call(lambda: self._repository.fetch(self._ref))
        return await self._code(commit)

    async def current(self) -> Code:
        if self._pinned is not None:
            return await self._code(self._pinned)
        try:
            return await self.latest()
        except SourceError as error:
            served = await self._served()
            if served is None:
                raise
            _log.error("bundle_not_fetched", bundle=self._id, reason=str(error), served=served[:VERSION_DIGITS])
            return await self._code(served)

    async def accepted(self, code: Code) -> None:
        if code.revision == self._pinned:
            return
        self._pinned = code.revision
        try:
            await self._store.call(lambda: self._repository.record(self._name, code.revision))
        except OSError as error:
            _log.error("bundle_not_recorded", bundle=self._id, version=code.version, reason=str(error))

    async def before(self, code: Code) -> Code | None:
        served = self._pinned or await self._served()
        return None if served is None or served == code.revision else await self._code(served)

    @property
    def _name(self) -> str:
        """Under which it is recorded what is served: what another ref or folder was served has no part in it."""
        return f"{self._id} {self._ref or 'HEAD'} {self._subdir}"

    async def _served(self) -> str | None:
        return await self._store.call(lambda: self._repository.served(self._name))

    async def _code(self, commit: str) -> Code:
        return await self._store.call(lambda: self._held(commit))

    def _held(self, commit: str) -> Code:
        self._repository.fetch(commit)  # it is here, unless somebody removed it
        held = self._repository.hold(commit)
        if held is None:
            raise SourceError(f"commit {commit} was removed while it was wanted")
        folder, let_go = held
        place = (folder / self._subdir).resolve()
        if not place.is_dir() or not place.is_relative_to(folder.resolve()):
            let_go()
            raise SourceError(f"commit {commit[:VERSION_DIGITS]} has no folder {self._subdir!r} (git_subdir)")
        return Code(str(place), commit[:VERSION_DIGITS], commit, let_go)
