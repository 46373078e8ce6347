"""Child processes that cannot outlive whoever started them. Linux only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdcube.protocol.errors import KDCubeError

_CAPABILITY_BITS = {"dac_read_search": 2, "dac_override": 1}
_START_TICKS = 19  # field 22 of /proc/PID/stat, counted from the one behind the command's name


class ToolMissing(KDCubeError):
    """A program of the operating system that we rely on is missing."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a server runs as instead of root."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute: the argument list, the whole environment, and the account (None: the one of the caller).

    ``death_signal`` reaches the program from the kernel when the thread that started it dies, however it dies.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": os.defpath, "LC_ALL": "C.UTF-8"})
    death_signal: signal.Signals = signal.SIGKILL
    account: Account | None = None


def start(program: Program, log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start ``program`` in a session of its own, with both outputs appended to ``log`` (None: thrown away).

    Ctrl-C in the terminal does not reach it: whoever started it decides in which order things end.
    """
    fd = os.open(log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return subprocess.Popen(
            [*_launcher(program), *program.argv],
            env=dict(program.env),
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            cwd="/" if program.account else None,
            start_new_session=True,
        )
    finally:
        os.close(fd)


def run(program: Program, stdin: str | None = None) -> str:
    """Run ``program`` to its end and return what it printed; ``subprocess.CalledProcessError`` carries its output."""
    done = subprocess.run(
        [*_launcher(program), *program.argv],
        env=dict(program.env),
        input=stdin,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/" if program.account else None,
        check=True,
    )
    return done.stdout


async def exited(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of ``process`` and kill what is left of its group; its exit code, negative for a signal."""
    fd = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    kill_group(process.pid)  # before its number is given back, so it cannot be a stranger's
    return process.wait()


def birth_of(pid: int) -> str | None:
    """What tells this life of ``pid`` from any other process with that number; None when it is over.

    A pid alone must never be trusted: after a crash it may belong to a stranger. A process that has ended and is not
    reaped yet counts as over.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot}:{fields[_START_TICKS]}"


def stop(process: subprocess.Popen[bytes], sign: signal.Signals, grace_s: float) -> int:
    """Ask with ``sign``, wait ``grace_s``, then kill the whole process group; returns the exit code."""
    if process.poll() is None:
        process.send_signal(sign)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
    kill_group(process.pid)
    return process.wait()


def kill_group(pgid: int) -> None:
    """Kill what is left of a process group that one of our programs leads; nothing left is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pgid, signal.SIGKILL)


def unprivileged_account(folder: Path) -> Account | None:
    """Whom a server runs as that refuses root: the owner of ``folder``, else ``postgres``, else ``nobody``.

    None when we are not root: the server then runs as we do.
    """
    if os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    return Account(65534, 65534)


def _launcher(program: Program) -> list[str]:
    """``setpriv`` and its arguments: it changes account and death signal and then becomes the program."""
    setpriv = shutil.which("setpriv", path=os.defpath + ":/usr/sbin:/sbin")
    if setpriv is None:
        raise ToolMissing("setpriv is not installed: it is part of util-linux, which every Debian has")
    argv = [setpriv, "--pdeathsig", program.death_signal.name.removeprefix("SIG")]
    if program.account is not None:
        argv += ["--reuid", str(program.account.uid), "--regid", str(program.account.gid), "--clear-groups"]
        # The account must reach its binaries and its data through folders such as /root (0700), whose
        # permissions are not ours to loosen. It keeps this one capability and can gain no other.
        capability = _search_capability()
        for kind in ("--inh-caps", "--ambient-caps", "--bounding-set"):
            argv += [kind, f"-all,+{capability}" if capability else "-all"]
    return [*argv, "--"]


def _search_capability() -> str | None:
    """The weakest capability that we have and that crosses closed folders (containers often lack the first)."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return next((name for name, bit in _CAPABILITY_BITS.items() if effective >> bit & 1), None)
