"""One repository on this disk: a mirror, and a read-only folder for each commit that is or was served.

Beside the mirror lies ``lock``: one process at a time writes, over all procs that share the folder. What is written
appears by a rename, so that a process which is killed leaves only leftovers behind, which the next writer removes. A
checkout that is in use is held by a shared lock on its folder; the kernel lets go of it when its holder is gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcube.config.git import GitAddress, GitSettings
from kdcube.proc.bundles.sources.checkout import remove_checkout, sync_folder, write_checkout
from kdcube.proc.bundles.sources.git import Git
from kdcube.proc.bundles.sources.source import SourceError
from kdcube.telemetry.failpoints import failpoint

KEPT_COMMITS = 4
"""Checkouts that stay though nothing runs them, for going back; the newest ones."""
_LOOK_S = 0.1
_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{7,63}")
_HEAD = "refs/kdcube/head"
_PINNED = "refs/kdcube/commits/"


class Repository:
    """Its methods block and raise SourceError; they belong to threads, which ``stopping`` ends."""

    def __init__(
        self, root: Path, address: GitAddress, settings: GitSettings, *, stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.address = address
        self._folder = root / hashlib.sha256(address.url.encode()).hexdigest()[:20]
        self._mirror = self._folder / "mirror.git"
        self._commits = self._folder / "commits"
        self._settings = settings
        self._stopping = stopping
        self._clock = clock
        self._git = Git(address, settings, home=self._folder, stopping=stopping, clock=clock)

    def sign_in(self, settings: GitSettings) -> None:
        """What is fetched from now on is fetched with these."""
        self._git = self._git.signed_in(settings)

    def fetch(self, ref: str | None) -> str:
        """The commit that ``ref`` names now, checked out. A full commit that is here already is not asked for."""
        if ref is not None and _FULL.fullmatch(ref) and self._checkout(ref).is_dir():
            return ref
        with self._writing() as lock_fd:
            self._clean()
            if not self._mirror.is_dir():
                made = self._folder / f".{secrets.token_hex(4)}"
                self._git.run("init", "--quiet", "--bare", "--template=", git_dir=made)
                made.rename(self._mirror)
            full = ref if ref is not None and _FULL.fullmatch(ref) else None
            commit = self._resolved(full) if full else None
            if commit is None:
                self._update(ref, lock_fd)
                commit = self._resolved(ref)
            if commit is None and full:
                self._fetch(lock_fd, f"+{full}:{_PINNED}{full}")  # of no branch or tag
                commit = self._resolved(full)
            if commit is None:
                raise SourceError(f"{self.address.url} has no branch, tag or commit {ref!r}")
            # What has been checked out stays in the mirror for going back, whatever becomes of branches over there.
            self._git.run("update-ref", f"{_PINNED}{commit}", commit)
            self._write(commit)
            self._collect(commit)
            return commit

    def has(self, commit: str) -> bool:
        """Whether it is checked out. Asks nobody."""
        return self._checkout(commit).is_dir()

    def hold(self, commit: str) -> tuple[Path, Callable[[], None]] | None:
        """The folder of a commit, which stays until the second is called (again: nothing); None when it is not here."""
        folder = self._checkout(commit)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.stat(folder).st_ino != os.fstat(fd).st_ino:  # noqa: PTH116 - as of the descriptor
                raise OSError
        except OSError:  # it is being removed
            os.close(fd)
            return None
        open_fds = [fd]
        return folder, lambda: os.close(open_fds.pop()) if open_fds else None

    # ---- writing

    def _checkout(self, commit: str) -> Path:
        return self._commits / commit

    @contextmanager
    def _writing(self) -> Generator[int]:
        self._commits.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = self._clock() + self._settings.timeout_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._stopping.wait(_LOOK_S):
                        raise SourceError("this proc is leaving") from None
                    if self._clock() > deadline:
                        raise SourceError(f"another process keeps on writing {self._folder}") from None
            yield fd
        except OSError as error:
            raise SourceError(f"cannot write {self._folder}: {error.strerror or error}") from error
        finally:
            os.close(fd)

    def _clean(self) -> None:
        """Removes what a killed process left behind; nobody else writes now."""
        for leftover in (*self._commits.glob(".*"), *self._folder.glob(".*")):
            remove_checkout(leftover)
        for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/**/tmp_obj_*"):
            for leftover in self._mirror.glob(pattern):
                leftover.unlink(missing_ok=True)

    def _update(self, ref: str | None, lock_fd: int) -> None:
        head = (f"+HEAD:{_HEAD}",) if ref is None or ref == "HEAD" else ()
        self._fetch(lock_fd, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", *head)

    def _fetch(self, lock_fd: int, *refspecs: str) -> None:
        prune = ("--prune",) if len(refspecs) > 1 else ()
        self._git.run(
            *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", *prune, "--"),
            *(self.address.url, *refspecs),
            remote=True,
            held_fd=lock_fd,
            too_large=self._too_large,
        )
        failpoint("proc.git.fetched")

    def _too_large(self) -> str | None:
        size = 0
        for place, _, files in os.walk(self._mirror):
            for name in files:
                with suppress(OSError):  # git has just renamed it
                    size += Path(place, name).stat().st_size
        limit = self._settings.max_bytes
        return None if size <= limit else f"{self.address.url} is larger than {limit} bytes (KDCUBE_GIT_MAX_BYTES)"

    def _resolved(self, ref: str | None) -> str | None:
        """A branch, else a tag, else a commit."""
        if ref is None or ref == "HEAD":
            return self._commit(_HEAD)
        if ref.startswith("refs/"):
            return self._commit(ref)
        branch, tag = self._commit(f"refs/heads/{ref}"), self._commit(f"refs/tags/{ref}")
        if branch and tag and branch != tag:
            raise SourceError(f"{ref!r} is a branch and a tag: say refs/heads/{ref} or refs/tags/{ref}")
        if branch or tag:
            return branch or tag
        return self._commit(ref) if _FULL.fullmatch(ref) or _SHORT.fullmatch(ref) else None

    def _commit(self, name: str) -> str | None:
        try:
            found = self._git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except SourceError:
            return None
        return found.decode().strip()

    def _write(self, commit: str) -> None:
        final = self._checkout(commit)
        if final.is_dir():
            os.utime(final)  # the newest, as it is wanted now
            return
        written = self._commits / f".{commit}-{secrets.token_hex(4)}"
        try:
            write_checkout(self._git, commit, written, self._settings)
            failpoint("proc.git.written")
            written.rename(final)
            sync_folder(self._commits)
        except BaseException:
            remove_checkout(written)
            raise

    def _collect(self, commit: str) -> None:
        """Removes old checkouts, but none that is held. The mirror can write them again."""
        folders = sorted(self._commits.glob("[0-9a-f]*"), key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        for folder in folders[KEPT_COMMITS:]:
            if folder.name != commit:
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # a host runs it, here or of another proc
        else:
            leaving = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
            folder.rename(leaving)
            remove_checkout(leaving)
        finally:
            os.close(fd)
