"""The keeper of one bundle host: starts it within its limits, watches all that it starts, and leaves nothing of it.

A program of its own, ``python -I -S keeper.py NAME=VALUE... -- PROGRAM...``, started by proc for each host; standard
library only, as it is started often and stays. It is the *subreaper* of the host: whatever a bundle starts stays below
it, also what leaves the process group or the session and what its parent has left. So it can count all of it, and when
the host ends, when it is over a limit, on SIGTERM, or when proc is gone, it ends all of it and itself.

It tells proc by lines on the descriptor ``status``:

    born PID             the host runs
    failed TEXT          it could not be started
    over LIMIT TEXT      it is over a limit and is being ended
    full LIMIT TEXT      it has used up what it may have: it can go on, but should get nothing new
    ended CODE           the host has ended, with minus the signal or the exit code; what it left is being ended

The limits are those of ``limits.ProcessLimits``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

LOOK_S = 0.1
"""Between two looks at memory and processes: what a program can take meanwhile is what it may overshoot."""
LOOK_AT_FILES_S = 1.0
LOOK_SHARE = 20
"""Looking takes about one part of so many of a core, however much there is to look at ..."""
LOOK_MAX_S = 1.0
"""... but it waits no longer: what grows must not gain time by growing."""
FILES_MAX = 200_000
"""In the private folder: more take too long to count, and to remove."""
FREE_FILES = 8
"""A host with fewer descriptors left is full: the next connection or import may fail."""
_MANY_MORE = 16
_AHEAD = 10
_END_S = 0.02
_MB = 1024 * 1024
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_BLOCK_BYTES = 512


def main(arguments: list[str]) -> int:
    cut = arguments.index("--")
    options, program = dict(argument.split("=", 1) for argument in arguments[:cut]), arguments[cut + 1 :]
    status = int(options["status"])
    os.set_inheritable(status, False)
    os.set_blocking(status, False)
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(options["parent"]):
        return 1  # proc has died meanwhile

    def say(line: str) -> None:
        try:
            os.write(status, line[:1000].replace("\n", " ").encode(errors="replace") + b"\n")
        except (BlockingIOError, BrokenPipeError):
            pass  # proc is gone, or does not read: what is to be done here does not depend on it

    try:
        host = _start(options, program, prctl)
    except OSError as error:
        say(f"failed {error}")
        return 1
    say(f"born {host}")
    _go_first()
    _let_go(status, *map(int, options["close"].split(",")))
    _keep(host, Watch(host, options), say)
    end_all()
    return 0


def _go_first() -> None:
    """A keeper does little, and must do it while its host takes all that it can get. Only root may say so."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - _AHEAD)
    except OSError:
        return
    _write("/proc/self/autogroup", str(-_AHEAD))


def _start(options: dict[str, str], program: list[str], prctl: Callable[..., int]) -> int:
    """The host's process id, once its program runs. Raises OSError."""
    keeper = os.getpid()
    reads, writes = os.pipe()  # closed by the exec
    host = os.fork()
    if host == 0:
        try:
            os.setsid()
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == keeper:
                prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                _limit(options)
                for number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                os.execv(program[0], program)
        except BaseException as error:  # noqa: BLE001 - told to the keeper; nothing else may go on in this process
            os.write(writes, f"{program[0]}: {error}".encode(errors="replace"))
        finally:
            os._exit(127)
    os.close(writes)
    with os.fdopen(reads, "rb") as failed:
        problem = failed.read()
    if problem:
        os.waitpid(host, 0)
        raise OSError(problem.decode(errors="replace"))
    return host


def _limit(options: dict[str, str]) -> None:
    """What the kernel holds this process, and all that it starts, to."""
    for name, limit in (
        ("core", resource.RLIMIT_CORE),
        ("data", resource.RLIMIT_DATA),
        ("file", resource.RLIMIT_FSIZE),
        ("open", resource.RLIMIT_NOFILE),
    ):
        if name in options:
            hard = resource.getrlimit(limit)[1]
            value = int(options[name])
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
    if "cores" in options:
        os.sched_setaffinity(0, map(int, options["cores"].split(",")))
    os.nice(int(options["nice"]))
    _write("/proc/self/autogroup", options["nice"])  # where sessions share the cores, a nice value is the session's
    _write("/proc/self/oom_score_adj", options["oom"])  # rather this than proc or a store


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        pass  # not on this kernel, or not here: it only does without


def _let_go(*descriptors: int) -> None:
    """Closes the host's ends, which would stay open after it; the first is kept."""
    kept, *others = descriptors
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, *others):
        if fd != kept:
            os.dup2(null, fd)
    os.close(null)


def _keep(host: int, watch: Watch, say: Callable[[str], None]) -> None:
    """Until the host has ended, is over a limit, or is not wanted any more."""
    waited_for = {signal.SIGCHLD, signal.SIGTERM}
    look_at = time.monotonic()
    while True:
        if (now := time.monotonic()) >= look_at:
            for word, limit, text in watch.look(now):
                say(f"{word} {limit} {text}")
                if word == "over":
                    return
            look_at = now + watch.pause_s()
        info = signal.sigtimedwait(waited_for, max(0.0, look_at - time.monotonic()))
        if info is not None and info.si_signo == signal.SIGTERM:
            return
        for pid, code in reap():
            if pid == host:
                say(f"ended {code}")
                return


def reap() -> Iterator[tuple[int, int]]:
    """Children that have ended, and their exit codes."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def end_all() -> None:
    """Returns when nothing is left below this process."""
    stopped: set[int] = set()
    while _stop_more(stopped):
        pass
    while True:
        for pid, _ in below(os.getpid()):
            _signal(pid, signal.SIGKILL)
        for _ in reap():
            pass
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        signal.sigtimedwait({signal.SIGCHLD}, _END_S)


def _stop_more(stopped: set[int]) -> bool:
    """Stops what is not yet, each before its children are listed: then it has no more, and what grows is overtaken."""
    waiting = _children(os.getpid())[0]
    seen: set[int] = set()
    before = len(stopped)
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            if pid not in stopped:
                _signal(pid, signal.SIGSTOP)
                stopped.add(pid)
            waiting += _children(pid)[0]
    return len(stopped) > before


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


# ---- what there is


def below(root: int) -> Iterator[tuple[int, int]]:
    """Every process below ``root``, and how many threads it has. What ends meanwhile may be left out."""
    waiting = _children(root)[0]
    seen = {root}
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            children, threads = _children(pid)
            waiting += children
            yield pid, threads


def _children(pid: int) -> tuple[list[int], int]:
    """Of all its threads, and how many threads those are."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return [], 0
    children: list[int] = []
    for thread in threads:
        try:
            children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
        except FileNotFoundError:
            if not _KNOWS_CHILDREN:
                return _children_of_all().get(pid, []), len(threads)
        except OSError:
            pass  # it has ended
    return children, len(threads)


def _children_of_all() -> dict[int, list[int]]:
    """For kernels that do not tell the children of a process."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    return children


_KNOWS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


class Watch:
    """Compares what there is with what there may be."""

    def __init__(self, host: int, options: dict[str, str]) -> None:
        self._host = host
        self._memory = int(options["memory"])
        self._processes = int(options["processes"])
        self._temp = int(options["temp"])
        self._folder = options["folder"]
        self._files = int(options["open"])
        self._full = False
        self._swaps = _field("/proc/meminfo", b"SwapTotal:") > 0
        self._pids: list[int] = []
        self._look_closely_at = self._look_at_files_at = 0.0
        self._began_s = 0.0
        self._tasks = 0
        self._growing = False

    def look(self, now: float) -> Iterator[tuple[str, str, str]]:
        """What is over its limit: ``over`` or ``full``, the limit's name, and the figures."""
        self._began_s = time.process_time()
        tasks, held = 0, 0
        self._pids.clear()
        for pid, threads in below(os.getpid()):
            self._pids.append(pid)
            tasks += threads
            held += self._held(pid)
            if tasks > self._processes:  # the rest does not matter, and may be growing
                yield "over", "process_limit", f"{tasks} or more processes and threads, of {self._processes}"
                return
        self._growing, self._tasks = tasks > self._tasks + _MANY_MORE, tasks
        if held > self._memory and now >= self._look_closely_at and not self._growing:
            # What processes share is counted for each of them; this counts it once, and takes longer.
            held = sum(map(self._own_share, self._pids))
            self._look_closely_at = now + self.pause_s()
            if held > self._memory:
                many = f" in {len(self._pids)} processes" if len(self._pids) > 1 else ""
                yield "over", "memory_limit", f"{held // _MB} MB{many}, of {self._memory // _MB}"
                return
        if now >= self._look_at_files_at:
            yield from self._look_at_files()
            self._look_at_files_at = now + max(LOOK_AT_FILES_S, LOOK_SHARE * self.took_s())

    def took_s(self) -> float:
        """CPU time of the last look: time that others took from it does not count."""
        return time.process_time() - self._began_s

    def pause_s(self) -> float:
        """Until the next look: soon, while processes become more."""
        return LOOK_S if self._growing else min(max(LOOK_S, LOOK_SHARE * self.took_s()), LOOK_MAX_S)

    def _held(self, pid: int) -> int:
        try:
            held = int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE_BYTES
            return held + _field(f"/proc/{pid}/status", b"VmSwap:") if self._swaps else held
        except (OSError, IndexError):
            return 0  # it has ended

    def _own_share(self, pid: int) -> int:
        """Memory of one process, with its part of what it shares."""
        try:
            path = f"/proc/{pid}/smaps_rollup"
            return _field(path, b"\nPss:") + _field(path, b"\nSwapPss:")
        except OSError:
            return self._held(pid)  # it has ended, or this kernel does not tell

    def _look_at_files(self) -> Iterator[tuple[str, str, str]]:
        used, files = _usage(self._folder, self._temp)
        for pid in self._pids:
            used += self._deleted(pid)
        if files > FILES_MAX:
            yield "over", "temp_limit", f"more than {FILES_MAX} files in its folder"
        elif used > self._temp:
            yield "over", "temp_limit", f"{used // _MB} MB or more in its folder, of {self._temp // _MB}"
        elif not self._full:
            try:
                open_files = len(os.listdir(f"/proc/{self._host}/fd"))
            except OSError:
                return
            if open_files > self._files - FREE_FILES:
                self._full = True
                yield "full", "open_files_limit", f"{open_files} files and sockets are open, of {self._files}"

    def _deleted(self, pid: int) -> int:
        """Bytes of files that have no name any more and live as long as they are open."""
        used = 0
        seen: set[tuple[int, int]] = set()
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return 0
        for name in names:
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and not found.st_nlink and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                used += found.st_blocks * _BLOCK_BYTES
        return used


def _field(path: str, name: bytes) -> int:
    """Bytes of a field that says kB; 0 without it. Raises OSError."""
    _, found, rest = _read(path).partition(name)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0


def _usage(folder: str, enough: int) -> tuple[int, int]:
    """Bytes on the disk and number of files in a folder, counted until either is too much. Links are not followed."""
    used = files = 0
    folders = [folder]
    while folders and used <= enough and files <= FILES_MAX:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    files += 1
                    try:
                        used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                    except OSError:
                        continue
        except OSError:
            continue
    return used, files


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
