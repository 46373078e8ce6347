"""The data folder of an installation on this machine (``KDCUBE_HOME``)."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdcube.protocol.errors import KDCubeError


class HomeLocked(KDCubeError):
    """Another `kdcube up` uses this data folder."""


class HomeUnusable(KDCubeError):
    """The data folder cannot be made or written."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything that outlives a run is kept; ``path`` is absolute."""

    path: Path

    @property
    def valkey(self) -> Path:
        return self.path / "valkey"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def cache(self) -> Path:
        """What can be made again."""
        return self.path / "cache"

    @property
    def run(self) -> Path:
        """For what only a running system needs, such as sockets."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def secrets(self) -> Path:
        """For secrets of bundles, one file each. The user makes it."""
        return self.path / "secrets"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def admin_key(self) -> Path:
        """An API key for the commands of whoever owns the folder."""
        return self.path / "admin-key"

    def make(self) -> None:
        """Make the folder, unless it exists. Raises HomeUnusable."""
        try:
            for folder in (self.path, self.valkey, self.postgres, self.run, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            (self.path / ".gitignore").write_text("*\n")
            (self.path / "lock").touch(0o600)
        except OSError as error:
            raise HomeUnusable(f"the data folder {self.path} cannot be used: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Generator[None]:
        """Make the folder and hold it for one `kdcube up`; the kernel lets go when its process ends, however it does.

        Raises HomeLocked, HomeUnusable.
        """
        self.make()
        lock = os.open(self.path / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise HomeLocked(
                f"the data folder {self.path} is in use by another `kdcube up`: "
                "stop that one with `kdcube down`, or choose another folder with KDCUBE_HOME=..."
            ) from error
        try:
            yield
        finally:
            os.close(lock)

    def clear_run(self) -> None:
        """Remove what processes that were killed have left in ``run``."""
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir()

    def secret(self, name: str) -> str:
        """A random secret that stays the same from run to run, in a file that only its owner reads."""
        path = self.path / name
        if not path.exists():
            draft = path.with_suffix(".new")
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
            draft.rename(path)
        return path.read_text()
