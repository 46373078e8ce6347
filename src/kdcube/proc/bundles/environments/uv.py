"""Runs uv where nothing but its arguments and the installation's settings decide what it does: no configuration of the
machine or the user, no Python that is downloaded, bounded in time, space, processes and words.

Code of packages may run below it, while a source distribution is built. It inherits uv's environment, so credentials
are only there when they are needed, and then, unless UV_NO_BUILD=0 says otherwise, nothing is built.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kdcube.config.environments import EnvironmentSettings
from kdcube.proc.bundles.environments import confined
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.telemetry.redaction import REDACTED, redact_text

_LOOK_S = 0.5
_END_S = 5.0
_HEAD_BYTES, _TAIL_BYTES = 3_000, 1_000
_PATIENCE = {"UV_HTTP_TIMEOUT": "30", "UV_LOCK_TIMEOUT": "300"}


class Uv:
    """Runs uv for one build, in the folder ``work``. It blocks, so it belongs to a thread; ``stopping`` ends it."""

    def __init__(
        self, settings: EnvironmentSettings, *, work: Path, cache: Path, stopping: threading.Event, lock_fd: int,
        too_large: Callable[[], str | None], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._work = work
        self._cache = cache
        self._stopping = stopping
        self._lock_fd = lock_fd
        self._too_large = too_large
        self._clock = clock
        self._deadline = clock() + settings.timeout_s
        for folder in ("home", "tmp"):
            (work / folder).mkdir(mode=0o700)

    def run(self, *arguments: str, blamed: Path | None = None, remote: bool = False) -> None:
        """Raises EnvironmentNotBuilt with uv's words about the file ``blamed``. ``remote``: it may ask the indexes.

        The lock is held by uv as well, so that it is held until uv has ended, whatever becomes of this process.
        """
        settings = self._settings
        bounds = (settings.max_processes, settings.max_memory_bytes, settings.max_bytes, int(settings.timeout_s) + 1)
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(Path(confined.__file__)), *map(str, bounds)),
                    *(_program(), "--quiet", *arguments),
                ],
                cwd=self._work,
                env=self._environment(remote),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(self._lock_fd,),
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentNotBuilt(f"uv does not start: {error.strerror}", blamed) from error
        with process:
            assert process.stderr is not None
            words = _Words(process.stderr)
            try:
                self._wait(process, blamed)
            finally:
                _end(process)
                words.join()
        if process.returncode:
            raise EnvironmentNotBuilt(self._told(words.text, process.returncode), blamed)

    def _wait(self, process: subprocess.Popen[bytes], blamed: Path | None) -> None:
        while True:
            try:
                process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                if self._stopping.is_set():
                    raise EnvironmentNotBuilt("this proc is leaving", later=True) from None
                if self._clock() > self._deadline:
                    what = f"it takes longer than {self._settings.timeout_s:g} s (KDCUBE_ENVIRONMENT_TIMEOUT_SEC)"
                    raise EnvironmentNotBuilt(what, blamed) from None
            reason = self._too_large()
            if reason is not None:
                raise EnvironmentNotBuilt(reason, blamed)
            if process.returncode is not None:
                return

    def _environment(self, remote: bool) -> dict[str, str]:
        settings = self._settings
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self._work / "home"),
            "TMPDIR": str(self._work / "tmp"),
            "UV_CACHE_DIR": str(self._cache),
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_KEYRING_PROVIDER": "disabled",
            "UV_LINK_MODE": "copy",  # with links a bundle that writes into its environment would write into others
            "UV_CONCURRENT_BUILDS": "2",
            **_PATIENCE,
        }
        if not remote or settings.offline:
            variables["UV_OFFLINE"] = "1"
        if remote:
            variables |= settings.network
            variables |= {name: value.get_secret_value() for name, value in settings.indexes.items()}
            if settings.netrc is not None:
                variables["NETRC"] = str(settings.netrc)
        return variables

    def _told(self, said: bytes, code: int) -> str:
        text = said.decode(errors="replace").strip()
        for secret in self._settings.secrets:
            text = text.replace(secret, REDACTED)
        text = redact_text(text.replace(f"{self._work}{os.sep}", ""))
        if self._settings.no_build and "--no-build" in text:
            text += (
                "\nOnly wheels are installed here, as UV_NO_BUILD says or as the indexes are given with credentials, "
            )
            text += "which code that runs in a build could read: UV_NO_BUILD=0 allows it."
        return text.removeprefix("error: ") or f"uv ends with code {code}"


def _program() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        raise EnvironmentNotBuilt("there is no uv where KDCube is installed, which it needs for this") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started, if it still runs: it ends them itself, at SIGTERM."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Words:
    """Reads a pipe to its end in a thread of its own, and keeps the first and the last of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._head, self._tail = b"", b""
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, name="uv's words", daemon=True)
        self._thread.start()

    @property
    def text(self) -> bytes:
        return self._head + (b"\n[...]\n" if len(self._tail) == _TAIL_BYTES else b"") + self._tail

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), 65536):
            room = _HEAD_BYTES - len(self._head)
            self._head += chunk[:room]
            self._tail = (self._tail + chunk[room:])[-_TAIL_BYTES:]

    def join(self) -> None:
        self._thread.join()
