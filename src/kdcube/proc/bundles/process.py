"""One process for a bundle: how it is started, what it is given, how it is watched and ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from kdcube.proc.bundles import keeper
from kdcube.proc.bundles.concealing import Concealing
from kdcube.proc.bundles.limits import ProcessLimits
from kdcube.proc.bundles.output import OutputLines
from kdcube.proc.bundles.pipe import PipeReader

_log = structlog.get_logger("kdcube.bundle")
_KEEPER = Path(keeper.__file__)
_OUTPUT_LINGER_S = 0.5
_BEATS_READ_BYTES = 65_536

OnVerdict = Callable[[str, str, str], None]


class HostProcess:
    """A started process: its end of the wire, its beat, its output, its exit.

    Its parent is a *keeper* (``keeper.py``), which holds it to its limits: whatever the process started ends with it.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], wire: socket.socket, beat_fd: int, status_fd: int, home: Path
    ) -> None:
        self._keeper = process
        self._home = home
        self._beat_fd = beat_fd
        self._status_fd = status_fd
        self._status = b""
        self._loop = asyncio.get_running_loop()
        self._outputs: list[tuple[PipeReader, OutputLines]] = []
        self._born: asyncio.Future[int] = self._loop.create_future()
        self._born.add_done_callback(lambda born: born.cancelled() or born.exception())  # nobody may wait any more
        self._host_fd: int | None = None
        self._code: int | None = None
        self._verdicts: list[tuple[str, str, str]] = []
        self._on_verdict: OnVerdict | None = None
        self.pid = 0
        """Of the program itself, which the keeper started."""
        self.wire = wire
        self.concealing = Concealing()
        """For what is logged of it."""
        self.exited: asyncio.Future[int] = self._loop.create_future()
        """The return code, negative for a signal, when the process has ended and nothing that it started is left."""
        self._keeper_fd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._keeper_fd, self._on_exit)
        self._loop.add_reader(status_fd, self.hear)

    @classmethod
    async def start(
        cls, bundle_id: str, run_dir: Path, clock: Callable[[], float], pulse_fd: int, limits: ProcessLimits,
        *, python: str = sys.executable, debug: bool = False,
    ) -> HostProcess:  # fmt: skip
        """Starts ``python -m kdcube.sdk.host``. ``run_dir`` must exist; ``pulse_fd`` is a ``Pulse``'s. Raises OSError.

        The process must be started by the main thread: its keeper asks to be told of the end of the thread that started
        it.
        """
        with ExitStack() as undo, ExitStack() as started:
            home = Path(tempfile.mkdtemp(prefix="host-", dir=run_dir))  # mode 0700
            undo.callback(shutil.rmtree, home, ignore_errors=True)
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            started.callback(theirs.close)
            beat_fd, beat_theirs = os.pipe()
            undo.callback(os.close, beat_fd)
            started.callback(os.close, beat_theirs)
            status_fd, status_theirs = os.pipe()
            undo.callback(os.close, status_fd)
            started.callback(os.close, status_theirs)
            hosts_own = (theirs.fileno(), beat_theirs, pulse_fd)
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns as soon as the program is executed
                kept(
                    [
                        *(python, "-P", "-m", "kdcube.sdk.host"),
                        *("--wire", str(theirs.fileno()), "--beat", str(beat_theirs)),
                        *("--pulse", str(pulse_fd)),
                        *(("--debug",) if debug else ()),
                    ],
                    home,
                    limits,
                    status_fd=status_theirs,
                    its_own=hosts_own,
                ),
                env=host_environment(home, python),
                cwd=home,
                pass_fds=(status_theirs, *hosts_own),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            undo.callback(_abandon, process)
            ours.setblocking(False)
            os.set_blocking(beat_fd, False)
            os.set_blocking(status_fd, False)
            host = cls(process, ours, beat_fd, status_fd, home)
            undo.pop_all()
        try:
            host.pid = await asyncio.shield(host._born)
            host._host_fd = os.pidfd_open(host.pid)
            host._capture(bundle_id, clock)
        except BaseException:
            host.kill()
            await host.reap()
            raise
        return host

    def _capture(self, bundle_id: str, clock: Callable[[], float]) -> None:
        for name, pipe in (("stdout", self._keeper.stdout), ("stderr", self._keeper.stderr)):
            assert pipe is not None
            log = _log.bind(bundle=bundle_id, pid=self.pid, stream=name)
            output = OutputLines(
                lambda line, log=log: log.info("bundle_output", line=self.concealing.without(line)),
                lambda count, log=log: log.warning("bundle_output_dropped", lines=count),
                clock,
            )
            self._outputs.append((PipeReader(pipe, output), output))

    # ---- what is heard of it

    def beats(self) -> bytes:
        """Those that came since the last call. Nobody is woken by a beat: whoever floods them fills a pipe."""
        if self.exited.done():
            return b""
        try:
            return os.read(self._beat_fd, _BEATS_READ_BYTES)
        except BlockingIOError:
            return b""

    def listen(self, on_verdict: OnVerdict) -> None:
        """``on_verdict(word, limit, figures)`` is told what the keeper says of limits: ``over`` or ``full``."""
        self._on_verdict = on_verdict
        for verdict in self._verdicts:
            on_verdict(*verdict)

    def hear(self) -> None:
        """Takes what the keeper has said until now."""
        try:
            said = os.read(self._status_fd, 65_536) if self._status_fd >= 0 else b""
        except BlockingIOError:
            return
        if not said:
            self._deafen()
        *lines, self._status = (self._status + said).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            match word:
                case "born":
                    self._born.set_result(int(rest))
                case "failed":
                    self._born.set_exception(OSError(rest))
                case "ended":
                    self._code = int(rest)
                case _:
                    limit, _, figures = rest.partition(" ")
                    self._verdicts.append((word, limit, figures))
                    if self._on_verdict is not None:
                        self._on_verdict(word, limit, figures)

    def _deafen(self) -> None:
        if self._status_fd >= 0:
            self._loop.remove_reader(self._status_fd)
            os.close(self._status_fd)
            self._status_fd = -1

    # ---- its end

    def kill(self) -> None:
        """Ends the process and all that it started at once; ``exited`` follows."""
        if self.exited.done():
            return
        if self._host_fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._host_fd, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGCONT):  # it might have been stopped
            os.kill(self._keeper.pid, number)  # until it is reaped its number is its own

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._keeper_fd)
        self.hear()
        self._deafen()
        code = self._keeper.wait()
        if self._host_fd is not None:
            if self._code is None and code:  # somebody killed the keeper: what can still be found is ended
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            os.close(self._host_fd)
        os.close(self._keeper_fd)
        os.close(self._beat_fd)
        if not self._born.done():
            self._born.set_exception(OSError(f"its keeper ended with {code}"))
        self.exited.set_result(-signal.SIGKILL if self._code is None else self._code)

    async def reap(self) -> None:
        """Waits for the exit, for the last of the output, and removes the home."""
        await self.exited
        self.wire.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_OUTPUT_LINGER_S):
                for _, output in self._outputs:
                    output.finish()
                    await output.ended.wait()
        for transport, _ in self._outputs:
            transport.close()
        for pipe in (self._keeper.stdout, self._keeper.stderr):
            if pipe is not None:
                pipe.close()
        await asyncio.to_thread(_remove, self._home)


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that nobody watches yet."""
    with process:
        process.terminate()


def _remove(home: Path) -> None:
    """All of it, also what was made unreadable or nested without end."""
    try:
        shutil.rmtree(home)
    except (OSError, RecursionError):
        done = subprocess.run(["chmod", "-R", "u+rwx", "--", str(home)], stderr=subprocess.DEVNULL, check=False)
        done = subprocess.run(["rm", "-rf", "--", str(home)], stderr=subprocess.PIPE, check=False)
        if done.returncode:
            _log.warning("host_folder_not_removed", folder=str(home), error=done.stderr.decode(errors="replace")[:500])


def kept(
    program: Sequence[str], home: Path, limits: ProcessLimits, *, status_fd: int, its_own: Sequence[int] = ()
) -> list[str]:
    """``program`` under a keeper, which holds it to its limits. ``its_own``: descriptors that the program inherits.

    It is to be started by the main thread, in a session of its own, with ``host_environment``.
    """
    return [
        *(sys.executable, "-I", "-S", "-B", str(_KEEPER)),
        *(f"parent={os.getpid()}", f"status={status_fd}", f"close={','.join(map(str, its_own or (status_fd,)))}"),
        *(f"folder={home}", *limits.options(), "--", *program),
    ]


def host_environment(home: Path, python: str = sys.executable) -> dict[str, str]:
    """All that a host gets. Nothing is inherited: secrets come by the wire, by name."""
    return {
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # bundles may be mounted read-only
        "PYTHONNOUSERSITE": "1",
    }
