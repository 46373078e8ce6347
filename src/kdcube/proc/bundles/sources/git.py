"""Runs git where nothing but its arguments decides what it does: no configuration of the machine or the user, no hooks,
no prompts, one transport, bounded in time, output and space.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO

from kdcube.config.git import GitAddress, GitSettings
from kdcube.proc.bundles.sources.source import SourceError
from kdcube.telemetry.redaction import redact_text

_TAIL_BYTES = 4096
_LOOK_S = 0.2
_TOKEN = "KDCUBE_GIT_TOKEN"  # noqa: S105 - the name of a variable
_HELPER = f'!f() {{ test "$1" = get && printf "username=%s\\npassword=%s\\n" "$KDCUBE_GIT_USER" "${_TOKEN}"; }}; f'
"""``printf`` is a part of the shell, so the token is in nobody's arguments."""

_ALWAYS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "credential.helper": "",
    "gc.autoDetach": "false",  # it cleans up within the fetch, under the lock and its time
    "maintenance.autoDetach": "false",
    "http.lowSpeedLimit": "500",
    "http.lowSpeedTime": "30",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "advice.detachedHead": "false",
}


class Git:
    """Runs git for one repository. Its methods block: they belong to a thread, which ``stopping`` ends."""

    def __init__(
        self, address: GitAddress, settings: GitSettings, *, home: Path, stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._address = address
        self._settings = settings
        self._home = home
        self._stopping = stopping
        self._clock = clock

    def signed_in(self, settings: GitSettings) -> Git:
        """The same with other settings."""
        return Git(self._address, settings, home=self._home, stopping=self._stopping, clock=self._clock)

    def run(
        self, *arguments: str, remote: bool = False, held_fd: int | None = None,
        git_dir: Path | None = None, too_large: Callable[[], str | None] = lambda: None,
    ) -> bytes:  # fmt: skip
        """What it writes, at most 4 KB of it. Raises SourceError with git's last words.

        ``remote``: it gets what it needs to sign in. ``held_fd`` stays open in it, so that a lock is held until it has
        ended, whatever becomes of this process. ``too_large`` is asked now and then, and says why it is to be ended.
        """
        with self._start(arguments, remote=remote, held_fd=held_fd, git_dir=git_dir) as process:
            assert process.stdout is not None and process.stderr is not None
            out, err = _Tail(process.stdout), _Tail(process.stderr)
            try:
                self._wait(process, too_large)
            finally:
                _end(process)
                out.join()
                err.join()
        if process.returncode:
            raise SourceError(self._words(err.text))
        return out.text

    def pieces(self, *arguments: str, end: bytes = b"\0") -> Generator[bytes]:
        """What it writes, piece by piece; it is ended when nobody takes more."""
        deadline = self._clock() + self._settings.timeout_s
        with self._start(arguments) as process:
            assert process.stdout is not None and process.stderr is not None
            err = _Tail(process.stderr)
            try:
                rest = b""
                while chunk := os.read(process.stdout.fileno(), 65536):
                    self._check(deadline)
                    *pieces, rest = (rest + chunk).split(end)
                    yield from pieces
                process.wait()
            finally:
                _end(process)
                err.join()
        if process.returncode:
            raise SourceError(self._words(err.text))

    def batch(self) -> subprocess.Popen[bytes]:
        """``git cat-file --batch``; the caller ends it with ``with``."""
        return self._start(("cat-file", "--batch"), stdin=subprocess.PIPE)

    def _start(
        self, arguments: Sequence[str], *, remote: bool = False, held_fd: int | None = None,
        git_dir: Path | None = None, stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        try:
            return subprocess.Popen(
                ["git", "--git-dir", str(git_dir or self._home / "mirror.git"), *arguments],
                cwd=self._home,
                env=self._environment(remote),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=() if held_fd is None else (held_fd,),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise SourceError("there is no git on this machine, which bundles with git_url need") from None

    def _wait(self, process: subprocess.Popen[bytes], too_large: Callable[[], str | None]) -> None:
        deadline = self._clock() + self._settings.timeout_s
        while True:
            try:
                process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                self._check(deadline)
            reason = too_large()
            if reason is not None:
                raise SourceError(reason)
            if process.returncode is not None:
                return

    def _check(self, deadline: float) -> None:
        if self._stopping.is_set():
            raise SourceError("this proc is leaving")
        if self._clock() > deadline:
            raise SourceError(
                f"git takes longer than {self._settings.timeout_s:g} s for {self._address.url} (KDCUBE_GIT_TIMEOUT_SEC)"
            )

    def _environment(self, remote: bool) -> dict[str, str]:
        configuration = list(_ALWAYS.items())
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": self._address.transport.value if remote else "none",
        }
        if remote:
            settings = self._settings
            variables |= settings.network
            if settings.http_token is not None and self._address.origin:
                variables["KDCUBE_GIT_USER"] = settings.http_user
                variables[_TOKEN] = settings.http_token.get_secret_value()
                configuration.append((f"credential.{self._address.origin}.helper", _HELPER))
            if settings.ssh_key is not None and settings.ssh_known_hosts is not None:
                variables["GIT_SSH_VARIANT"] = "ssh"
                variables["GIT_SSH_COMMAND"] = _ssh(settings.ssh_key, settings.ssh_known_hosts)
        variables["GIT_CONFIG_COUNT"] = str(len(configuration))
        for number, (name, value) in enumerate(configuration):
            variables[f"GIT_CONFIG_KEY_{number}"] = name
            variables[f"GIT_CONFIG_VALUE_{number}"] = value
        return variables

    def _words(self, said: bytes) -> str:
        text = " ".join(said.decode(errors="replace").split()) or "it says nothing"
        if self._settings.http_token is not None:
            text = text.replace(self._settings.http_token.get_secret_value(), "[redacted]")
        return f"git on {self._address.url}: {redact_text(text)}"


def _ssh(key: Path, known_hosts: Path) -> str:
    """A command line for git's shell: this key, these servers, nothing else."""
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ControlMaster": "no",
        "ControlPath": "none",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
    }
    words = ["ssh", "-F", "/dev/null", "-o", f"IdentityFile={_quoted(key)}"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return shlex.join(words)


def _quoted(path: Path) -> str:
    """As ssh reads it: ``%`` begins a token, and blanks end a word."""
    return '"' + str(path).replace("%", "%%") + '"'


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """Reads a pipe to its end in a thread of its own, and keeps the last of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.text = b""
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, name="git's words", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), 65536):
            self.text = (self.text + chunk)[-_TAIL_BYTES:]

    def join(self) -> None:
        self._thread.join()
