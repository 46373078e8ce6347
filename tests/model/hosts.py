"""Bundle hosts without processes: proc's side and the bundle's are the product's, the process between is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.concealing import Concealing
from kdcube.proc.bundles.host import BundleHost, HostLimits
from kdcube.proc.bundles.jobs import BundleUnavailable, TurnJob, TurnSink
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.seat import Seat
from kdcube.proc.bundles.sources.source import Code
from kdcube.proc.bundles.turns import RunningTurn
from kdcube.sdk import Bundle, BundleError, wire
from kdcube.sdk.running import TurnRun
from kdcube.sdk.turn import Turn

_pids = count(1)
NEVER_S = 1e9
GRACE_S = 900.0
"""A cancel that is not answered: longer than any nap, so that the test decides when it is over."""


@dataclass(eq=False)
class Run:
    """One attempt in a bundle's hands, as the bundle sees it."""

    turn_id: str
    attempt: int
    conversation_id: str
    claim_id: str
    text: str
    said: str = ""
    took: list[str] = field(default_factory=list[str])
    """Steers that the bundle has."""
    ended: str = ""
    alive: bool = True
    lapsed: bool = False
    """It began when its worker had let the lease run out, but did not know it yet."""
    stubborn: bool = False
    commands: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue[tuple[str, Any]])
    taking: asyncio.Task[Any] | None = None


async def _handle(run: Run, turn: Turn) -> None:
    """What the test's bundle does: as it is told."""
    while True:
        try:
            what, value = await run.commands.get()
        except asyncio.CancelledError:
            if run.stubborn:
                continue
            raise
        if what == "say":
            run.said += value
            await turn.delta(value)
        elif what == "take":
            if run.taking is None or run.taking.done():
                run.taking = asyncio.create_task(_take(run, turn))
        else:
            if run.taking is not None:
                run.taking.cancel()
            if what == "fail":
                raise BundleError("trial", "It failed.", retryable=value)
            return


async def _take(run: Run, turn: Turn) -> None:
    message = await turn.inbox.poll()
    if message is not None:
        run.took.append(message.id)


class Process:
    """Stands for the process of a host: the loop on its side of the wire."""

    def __init__(self, began: Callable[[wire.StartTurn], Run]) -> None:
        self.pid = next(_pids)
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.doomed = False
        self.concealing = Concealing()
        self.host: BundleHost
        self.runs: dict[int, tuple[TurnRun, Run]] = {}
        self._began = began
        self._reader = wire.FrameReader(wire.to_host_decoder)

    # --- proc's side

    def kill(self) -> None:
        """It dies when the test says so: a process takes its time."""
        self.doomed = True

    async def reap(self) -> None:
        pass

    def beats(self) -> bytes:
        return b""

    def listen(self, on_verdict: Callable[[str, str, str], None]) -> None:
        pass

    def hear(self) -> None:
        pass

    def die(self) -> None:
        if self.exited.done():
            return
        for turn_run, run in self.runs.values():
            run.stubborn = run.alive = False
            turn_run.task.cancel()
        self.runs.clear()
        self.host._channel.connection_lost(None)
        self.exited.set_result(-9)

    # --- the wire, as a transport of proc's end

    def writelines(self, frames: list[bytes]) -> None:
        if not self.exited.done():
            for message in self._reader.feed(b"".join(frames)):
                self._receive(message)

    def abort(self) -> None:
        self.kill()

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """What it says comes by calls: it has no flood to hold back."""

    def resume_reading(self) -> None:
        pass

    def _receive(self, message: Any) -> None:
        match message:
            case wire.StartTurn():
                run = self._began(message)
                bundle = Bundle("trial@1")
                bundle.message_handler = lambda turn: _handle(run, turn)
                turn_run = TurnRun(bundle, message, self._send)
                self.runs[message.turn] = (turn_run, run)
                turn_run.task.add_done_callback(lambda _: self._ended(message.turn))
            case wire.Stop():
                self.doomed = True
            case _:
                if found := self.runs.get(message.turn):
                    found[0].receive(message)

    def _ended(self, number: int) -> None:
        if found := self.runs.pop(number, None):
            found[1].alive = False

    def _send(self, message: Any) -> None:
        if isinstance(message, wire.Ended):
            self.runs[message.turn][1].ended = message.how
        if not self.exited.done():
            self.host._channel.data_received(b"".join(wire.encode_frames([message])))


class ModelPool:
    """As HostPool: one host at a time, which the test replaces when it is lost."""

    def __init__(self, attempts: dict[str, int], slots: int, began: Callable[[TurnJob, TurnSink], Run]) -> None:
        self._attempts = attempts
        self._slots = slots
        self._began = began
        self.job: tuple[TurnJob, TurnSink]
        self.on_change: Callable[[], None] = lambda: None
        self.processes: list[Process] = []
        self.draining = False
        self.launch()

    def launch(self) -> None:
        """A new host where the old one takes no more turns."""
        if self._taking():
            return
        process = Process(lambda message: self._began(*self.job))
        limits = HostLimits(cancel_grace_s=GRACE_S, stop_grace_s=NEVER_S)
        entry = BundleEntry(id="trial@1", path="nowhere")
        host: Any = BundleHost(entry, Code("nowhere", "v1"), process, limits, lambda: 0.0, lambda _: self.on_change())  # type: ignore[arg-type]
        process.host = host
        host._channel.connection_made(process)
        process._send(wire.Loaded(1, []))
        self.processes.append(process)
        self.on_change()

    def _taking(self) -> list[Process]:
        return [p for p in self.processes if not p.doomed and not p.host.retiring and not p.host.lost]

    def room(self) -> dict[str, int]:
        taking = [] if self.draining else self._taking()
        free = self._slots - sum(process.host.occupied for process in self.processes)
        return dict.fromkeys(self._attempts, free) if taking and free > 0 else {}

    def seat(self, bundle_id: str) -> Seat:
        allowed = self._attempts[bundle_id]
        release = BundleRelease(1, BundleEntry(id=bundle_id, path="nowhere", max_attempts=allowed))
        another = lambda _: self._one(bundle_id).host  # noqa: E731
        return ModelSeat(self, release, self._one(bundle_id).host, another=another, attempts=lambda: allowed)

    def _one(self, bundle_id: str) -> Process:
        if taking := self._taking():
            return taking[0]
        raise BundleUnavailable(bundle_id, "its host is being replaced")


class ModelSeat(Seat):
    """As a seat, but what it says to the host is there at once."""

    def __init__(self, pool: ModelPool, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._pool = pool

    def start(self, job: TurnJob, sink: TurnSink) -> RunningTurn:
        self._pool.job = job, sink
        running = super().start(job, sink)
        running._host._channel.flush()
        return running
