"""Bundles from git: a ref becomes a commit, a commit becomes a folder.

Fetching has threads of its own, so that a slow server keeps nothing else waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitAddress, GitSettings
from kdcube.proc.bundles.content import VERSION_DIGITS
from kdcube.proc.bundles.sources.credentials import GitCredentials
from kdcube.proc.bundles.sources.repository import Repository
from kdcube.proc.bundles.sources.source import Code, SourceError
from kdcube.protocol.errors import ConfigurationError

_THREADS = 4

T = TypeVar("T")


class GitStore:
    """All repositories of a proc, in ``KDCUBE_HOME/git``, which procs may share. Made by ``open_git_store``."""

    def __init__(self, root: Path, settings: GitSettings, credentials: GitCredentials | None) -> None:
        self._root = root
        self._settings = settings
        self._credentials = credentials
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="git")

    async def resolve(self, entry: BundleEntry) -> str:
        """The commit that ``git_ref`` names now, checked out. Raises SourceError."""
        repository = await self._signed_in(entry, self._repository(entry))
        return await self._call(lambda: repository.fetch(entry.git_ref), lambda _: None)

    async def code(self, entry: BundleEntry, revision: str) -> Code:
        """The files of a commit, which is fetched only if it is not here. Raises SourceError."""
        repository = self._repository(entry)
        if not repository.has(revision):  # what is here needs no credentials, which may be away
            await self._signed_in(entry, repository)
        return await self._call(lambda: _held(repository, entry, revision), lambda code: code.release())

    def _repository(self, entry: BundleEntry) -> Repository:
        try:
            address = GitAddress.parse(entry.git_url or "")
            self._settings.check(address, own_key=entry.git_ssh_key is not None)
        except (ValueError, ConfigurationError) as error:
            raise SourceError(str(error)) from error
        return Repository(self._root, address, self._settings, stopping=self._stopping)

    async def _signed_in(self, entry: BundleEntry, repository: Repository) -> Repository:
        if self._credentials is not None:
            repository.sign_in(await self._credentials.of(entry, self._settings))
        return repository

    async def _call(self, work: Callable[[], T], undo: Callable[[T], None]) -> T:
        """``undo`` is for a result that nobody waits for any more."""
        future = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: _undone(done, undo))
            raise

    def close(self) -> None:
        """Ends what is being fetched."""
        self._stopping.set()
        self._threads.shutdown(wait=True, cancel_futures=True)


@contextmanager
def open_git_store(root: Path, settings: GitSettings, credentials: GitCredentials | None = None) -> Generator[GitStore]:
    """``credentials``: where entries find secrets of their own; without it ``settings`` are for all."""
    store = GitStore(root, settings, credentials)
    try:
        yield store
    finally:
        store.close()


def _held(repository: Repository, entry: BundleEntry, commit: str) -> Code:
    repository.fetch(commit)  # it is here, unless somebody removed it
    held = repository.hold(commit)
    if held is None:
        raise SourceError(f"commit {commit} was removed while it was wanted")
    folder, let_go = held
    place = (folder / (entry.git_subdir or ".")).resolve()
    if not place.is_dir() or not place.is_relative_to(folder.resolve()):
        let_go()
        raise SourceError(f"commit {commit[:VERSION_DIGITS]} has no folder {entry.git_subdir!r} (git_subdir)")
    return Code(str(place), commit[:VERSION_DIGITS], commit, let_go)


def _undone(done: Future[T], undo: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
