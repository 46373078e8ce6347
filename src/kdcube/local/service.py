"""One process that is kept running."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcube.local.process import Program, exited, start
from kdcube.protocol.errors import KDCubeError

_PROBE_INTERVAL_S = 0.05
_BACKOFF_MIN_S = 0.1
_BACKOFF_MAX_S = 5.0
_STEADY_S = 30.0
_STARTS = 5
_EXCERPT_CHARS = 300


class ServiceFailed(KDCubeError):
    """A service cannot be kept running."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What to run and how to tell that it is ready.

    ``missing(pid)`` says in a few words what the process still lacks, or None when it is ready. ``grace_s`` is how
    long it may drain after ``stop_signal``.
    """

    name: str
    instance: str
    url: str
    program: Program
    missing: Callable[[int], Awaitable[str | None]]
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 30.0


class Service:
    """Starts its process again, with growing pauses, until told to stop; only while what it ``needs`` is ready.

    ``on_change`` is called whenever a process has started or ended; ``report`` gets a line for people when one ended
    that should not have.
    """

    def __init__(
        self,
        spec: ServiceSpec,
        needs: Sequence[Service],
        log: Path,
        on_change: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.log = log
        self._needs = needs
        self.ready = asyncio.Event()
        self.missing = "it has not started"
        self._on_change = on_change
        self._report = report
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep it running until stop(). Raises ServiceFailed when it ended five times in a row before it was ready."""
        never_ready = quick_ends = 0
        while True:
            await self._unless_stopping(self._needs_ready())
            if self._stopping.is_set():
                return
            began = time.monotonic()
            code = await self._live_once()
            if self._stopping.is_set():
                return
            never_ready = 0 if self.ready.is_set() else never_ready + 1
            quick_ends = 0 if time.monotonic() - began > _STEADY_S else quick_ends + 1
            self.ready.clear()
            if never_ready == _STARTS:
                raise ServiceFailed(
                    f"{self.spec.instance} cannot start: {self._last_words()} "
                    f"(it {_ending(code)}, {_STARTS} times; all of it in {self.log})"
                )
            pause_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2 ** max(0, quick_ends - 1))
            self._report(f"{self.spec.instance} {_ending(code)}; starting it again in {pause_s:g} s")
            await self._unless_stopping(asyncio.sleep(pause_s))

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ask the process to drain; kill what is left of it after its grace, or at once when ``hurry`` is set."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        process.send_signal(self.spec.stop_signal)
        ended, hurried = asyncio.create_task(self._ended.wait()), asyncio.create_task(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=self.spec.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            if not hurry.is_set():
                self._report(f"{self.spec.instance} did not drain within {self.spec.grace_s:g} s and is killed")
            process.kill()
        await ended

    async def _live_once(self) -> int:
        process = self._process = start(self.spec.program, self.log)
        self._ended.clear()
        self._on_change()
        ended = asyncio.create_task(exited(process))
        try:
            while not ended.done():
                missing = await self.spec.missing(process.pid)
                if missing is None and not ended.done():
                    self.ready.set()
                    break
                self.missing = missing or self.missing
                await asyncio.wait({ended}, timeout=_PROBE_INTERVAL_S)
            return await ended
        finally:
            self._process = None
            self._ended.set()
            self._on_change()

    async def _needs_ready(self) -> None:
        for service in self._needs:
            await service.ready.wait()

    async def _unless_stopping(self, wait: Coroutine[None, None, None]) -> None:
        waits = {asyncio.create_task(wait), asyncio.create_task(self._stopping.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:_EXCERPT_CHARS] if lines else "it says nothing"


def _ending(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
