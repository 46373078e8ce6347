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
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from kdcube.proc.bundles.output import OutputLines

_log = structlog.get_logger("kdcube.bundle")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class HostProcess:
    """A started process: its end of the wire, its beat, its output, its exit.

    It leads a process group of its own; whatever it started dies with it.
    """

    def __init__(self, process: subprocess.Popen[bytes], wire: socket.socket, beat_fd: int, home: Path) -> None:
        self._process = process
        self._home = home
        self._beat_fd = beat_fd
        self._loop = asyncio.get_running_loop()
        self._outputs: list[tuple[asyncio.ReadTransport, OutputLines]] = []
        self.pid = process.pid
        self.wire = wire
        self.beats = 0
        """How many were heard."""
        self.exited: asyncio.Future[int] = self._loop.create_future()
        """The return code; negative for a signal."""
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(beat_fd, self._on_beat)

    @classmethod
    async def start(
        cls, bundle_id: str, run_dir: Path, clock: Callable[[], float], pulse_fd: int, *, debug: bool = False
    ) -> HostProcess:
        """Starts ``python -m kdcube.sdk.host``. ``run_dir`` must exist; ``pulse_fd`` is a ``Pulse``'s. Raises OSError.

        The process must be started by the main thread: it asks to die with the thread that started it.
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
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns as soon as the program is executed
                [
                    *(sys.executable, "-P", "-m", "kdcube.sdk.host"),
                    *("--wire", str(theirs.fileno()), "--beat", str(beat_theirs)),
                    *("--pulse", str(pulse_fd)),
                    *(("--debug",) if debug else ()),
                ],
                env=host_environment(home),
                cwd=home,
                pass_fds=(theirs.fileno(), beat_theirs, pulse_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            undo.callback(_abandon, process)
            ours.setblocking(False)
            os.set_blocking(beat_fd, False)
            host = cls(process, ours, beat_fd, home)
            undo.pop_all()
        try:
            await host._capture(bundle_id, clock)
        except BaseException:
            host.kill()
            await host.reap()
            raise
        return host

    async def _capture(self, bundle_id: str, clock: Callable[[], float]) -> None:
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            log = _log.bind(bundle=bundle_id, pid=self.pid, stream=name)

            def lines(log: structlog.stdlib.BoundLogger = log) -> OutputLines:
                return OutputLines(
                    lambda line: log.info("bundle_output", line=line),
                    lambda count: log.warning("bundle_output_dropped", lines=count),
                    clock,
                )

            self._outputs.append(await self._loop.connect_read_pipe(lines, pipe))

    def resident_bytes(self) -> int:
        """Memory that the process holds now; 0 when it is gone."""
        try:
            statm = Path(f"/proc/{self.pid}/statm").read_bytes()
        except OSError:
            return 0
        return int(statm.split()[1]) * _PAGE_BYTES if statm else 0

    def kill(self) -> None:
        """Ends the process and its group at once; ``exited`` follows."""
        if not self.exited.done():  # until it is reaped its number is its own
            os.killpg(self.pid, signal.SIGKILL)

    def _on_beat(self) -> None:
        try:
            beats = os.read(self._beat_fd, 4096)
        except BlockingIOError:
            return
        if not beats:
            self._loop.remove_reader(self._beat_fd)
        self.beats += len(beats)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.killpg(self.pid, signal.SIGKILL)  # what it left behind in its group; before it is reaped
        code = self._process.wait()
        os.close(self._pidfd)
        self._loop.remove_reader(self._beat_fd)
        os.close(self._beat_fd)
        self.exited.set_result(code)

    async def reap(self) -> None:
        """Waits for the exit, for the last of the output, and removes the home."""
        await self.exited
        self.wire.close()
        with suppress(TimeoutError):  # a program that left the group may hold the pipes open for ever
            async with asyncio.timeout(_OUTPUT_LINGER_S):
                for _, output in self._outputs:
                    await output.ended.wait()
        for transport, _ in self._outputs:
            transport.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)


_OUTPUT_LINGER_S = 0.5


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that nobody watches yet."""
    with process:
        os.killpg(process.pid, signal.SIGKILL)


def host_environment(home: Path) -> dict[str, str]:
    """All that a host gets. Nothing is inherited: secrets come by the wire, by name."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # bundles may be mounted read-only
        "PYTHONNOUSERSITE": "1",
    }
