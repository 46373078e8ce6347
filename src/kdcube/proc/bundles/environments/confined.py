"""``python -I -S confined.py PROCESSES MEMORY BYTES SECONDS PROGRAM …``: a program with all that it starts in bounds.

Code of packages may run while they are built. Whatever it starts, also what leaves its session or its parent, comes
back to this process and ends with it: when the program has ended, at SIGTERM, and when whoever started this is gone.
Its exit code is the program's; 125 says that it was more than PROCESSES, or held more than MEMORY bytes. Only the
standard library is here.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

TOO_MUCH = 125
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_S = 0.5
_PAGE_BYTES = resource.getpagesize()
_NICE = 10
_OPEN_FILES = 4096


def main() -> int:
    processes, memory_bytes, file_bytes, seconds = map(int, sys.argv[1:5])
    awaited = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    parent = os.getppid()
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if parent == 1 or os.getppid() != parent:
        return 1  # it died before this could be heard
    program = os.fork()
    if program == 0:
        try:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
            _limit(file_bytes, seconds)
            os.execv(sys.argv[5], sys.argv[5:])  # noqa: S606
        except OSError as error:
            print(f"{sys.argv[5]}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(126)
    code = None
    while code is None:
        heard = signal.sigtimedwait(awaited, _LOOK_S)
        if heard is not None and heard.si_signo == signal.SIGTERM:
            code = 128 + signal.SIGTERM
        else:
            code = _reaped(program)
            found = {} if code is not None else _descendants()
            if len(found) > processes:
                print(f"it starts more than {processes} processes", file=sys.stderr, flush=True)
                code = TOO_MUCH
            elif sum(found.values()) > memory_bytes:
                print(f"it holds more than {memory_bytes >> 20} MiB of memory", file=sys.stderr, flush=True)
                code = TOO_MUCH
    _end_all()
    return code


def _limit(file_bytes: int, seconds: int) -> None:
    os.nice(_NICE)  # turns go first
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    cpu_s = seconds * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))


def _reaped(program: int) -> int | None:
    """The exit code of ``program`` once it has ended; others that have come here are let go."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1
        if pid == 0:
            return None
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _descendants() -> dict[int, int]:
    """Process ids, and the bytes that each holds in memory."""
    children: dict[int, list[int]] = {}
    held: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(place.name))
        held[int(place.name)] = int(fields[21]) * _PAGE_BYTES
    found = children.get(os.getpid(), [])
    for pid in found:  # it grows meanwhile
        found += children.get(pid, [])
    return {pid: held[pid] for pid in found}


def _end_all() -> None:
    while True:
        for pid in _descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main())
