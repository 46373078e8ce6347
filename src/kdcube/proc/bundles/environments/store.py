"""Environments on this disk: each in a folder under its digest, which appears by a rename and is never changed after.

One process at a time builds an environment, under a lock of the kernel, over all procs that share the folder. What a
killed process left behind is removed by whoever locks next. An environment that is in use is held by a shared lock on
its folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from kdcube.config.environments import EnvironmentSettings
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.environments.mark import RECORD
from kdcube.proc.bundles.sources.checkout import remove_checkout

KEPT_RESOLUTIONS = 256
"""The newest ones; each is a few KB."""
KEPT_ENVIRONMENTS = 8
"""That stay though nothing runs them, for going back; the newest ones."""
MIN_FREE_BYTES = 256 << 20
"""A build leaves so much of the disk to others."""
_LOOK_S = 0.1


class EnvironmentStore:
    """Its methods block; they belong to threads, which ``stopping`` ends. They raise EnvironmentNotBuilt."""

    def __init__(
        self, root: Path, settings: EnvironmentSettings, *, stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.cache = root / "cache"
        """uv's own."""
        self._root = root
        self._built = root / "built"
        self._locks = root / "locks"
        self._resolutions = root / "resolutions"
        self._settings = settings
        self._stopping = stopping
        self._clock = clock

    def hold(self, digest: str) -> tuple[Path, Callable[[], None]] | None:
        """An environment that stays until the second is called (again: nothing); None when it is not here."""
        for place in (self._settings.baked, self._root):
            if place is None:
                continue
            folder = place / "built" / digest
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.stat(folder).st_ino != os.fstat(fd).st_ino:  # noqa: PTH116 - as of the descriptor
                    raise OSError
            except OSError:  # it is being removed
                os.close(fd)
                continue
            if place == self._root:
                with suppress(OSError):
                    os.utime(folder)  # the newest, as it is wanted now
            open_fds = [fd]
            return folder, lambda open_fds=open_fds: os.close(open_fds.pop()) if open_fds else None
        return None

    @contextmanager
    def building(self, digest: str) -> Generator[tuple[Path, int]]:
        """A new folder to build in, and the descriptor of the lock. What ``finish`` did not take is removed."""
        for folder in (self._built, self._locks, self._resolutions):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(digest) as lock_fd:
            for leftover in self._built.glob(f".{digest[:2]}*"):
                remove_checkout(leftover)
            folder = self._built / f".{digest}-{secrets.token_hex(4)}"
            folder.mkdir(mode=0o700)
            try:
                yield folder, lock_fd
            finally:
                remove_checkout(folder)

    def finish(self, digest: str, environment: Path, record: dict[str, Any]) -> None:
        """``environment`` is complete: from now on it is held under ``digest``."""
        record = {**record, "bytes": size_of(environment)}
        (environment / RECORD).write_text(json.dumps(record, indent=1))
        _make_read_only(environment)
        _sync(environment)
        environment.rename(self._built / digest)

    def too_large(self, folder: Path) -> str | None:
        """Why a build is to be ended."""
        if shutil.disk_usage(self._root).free < MIN_FREE_BYTES:
            return f"less than {MIN_FREE_BYTES >> 20} MiB are free on the disk of {self._root}"
        limit = self._settings.max_bytes
        return None if size_of(folder) <= limit else f"it is larger than {limit} bytes (KDCUBE_ENVIRONMENTS_MAX_BYTES)"

    # ---- what was resolved

    def resolution(self, name: str) -> bytes | None:
        """The packages that were once chosen for what ``name`` stands for."""
        for place in (self._resolutions, self._settings.baked and self._settings.baked / "resolutions"):
            with suppress(OSError):
                if place is not None:
                    text = (place / name).read_bytes()
                    with suppress(OSError):
                        os.utime(place / name)  # the newest, as it is wanted now
                    return text
        return None

    def record_resolution(self, name: str, text: bytes) -> None:
        """They are taken again whenever it is built again."""
        place = self._resolutions / name
        written = place.with_name(f".{name}-{secrets.token_hex(4)}")
        with written.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        written.replace(place)
        resolutions = sorted(self._resolutions.glob("[0-9a-f]*"), key=_modified, reverse=True)
        for old in resolutions[KEPT_RESOLUTIONS:]:
            old.unlink(missing_ok=True)

    # ---- what is not needed any more

    def collect(self) -> None:
        """Removes environments that nothing runs: beyond the newest, and beyond the bytes that they may take."""
        for leftover in self._built.glob(".leaving-*"):
            with suppress(OSError):  # somebody else is at it
                remove_checkout(leftover)
        folders = sorted(self._built.glob("[0-9a-f]*"), key=_modified, reverse=True)
        unused_bytes = kept = 0
        for folder in folders:
            held = self._hold_alone(folder)
            if held is None:
                continue  # a host runs it, here or of another proc
            try:
                unused_bytes += _recorded_bytes(folder)
                kept += 1
                if kept > KEPT_ENVIRONMENTS or unused_bytes > self._settings.max_bytes:
                    leaving = folder.with_name(f".leaving-{folder.name}-{secrets.token_hex(4)}")
                    folder.rename(leaving)
                    remove_checkout(leaving)
            finally:
                os.close(held)

    def cache_too_large(self) -> bool:
        """Whether what uv keeps of downloads takes more than half of what environments may."""
        return size_of(self.cache) > self._settings.max_bytes // 2

    @staticmethod
    def _hold_alone(folder: Path) -> int | None:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    @contextmanager
    def _locked(self, digest: str) -> Generator[int]:
        """One of 256 locks, so that their files do not grow in number; two that meet wait for each other."""
        fd = os.open(self._locks / digest[:2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = self._clock() + self._settings.timeout_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._stopping.wait(_LOOK_S):
                        raise EnvironmentNotBuilt("this proc is leaving", later=True) from None
                    if self._clock() > deadline:
                        what = "another process builds for longer than KDCUBE_ENVIRONMENT_TIMEOUT_SEC"
                        raise EnvironmentNotBuilt(what, later=True) from None
            yield fd
        finally:
            os.close(fd)


def size_of(folder: Path) -> int:
    """Bytes of the files in ``folder``; what vanishes meanwhile does not count."""
    size = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - there may be 100,000
    return size


def _modified(place: Path) -> int:
    """0 for what somebody else has just removed."""
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return 0


def _recorded_bytes(folder: Path) -> int:
    try:
        record = json.loads((folder / RECORD).read_bytes())
        return int(cast("dict[str, Any]", record)["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _make_read_only(folder: Path) -> None:
    """It is shared by all hosts of all bundles that say the same. Links are not followed."""
    for place, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(place, name)  # noqa: PTH118
            if not os.path.islink(path):  # noqa: PTH114
                os.chmod(path, os.stat(path).st_mode & 0o555)  # noqa: PTH101, PTH116
        if place != str(folder):  # which is yet to be renamed
            os.chmod(place, 0o555)  # noqa: PTH101, S103


def _sync(folder: Path) -> None:
    """All of it is on the disk before its name is: a power cut leaves no half of an environment."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ctypes.CDLL(None).syncfs(fd)
    finally:
        os.close(fd)
