"""One bundle host as proc sees it: its turns, its limits, its end (rules 9 and 23)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.calls import CallJob, CallLost, RunningCall
from kdcube.proc.bundles.jobs import (
    BundleUnavailable,
    Delta,
    HostLost,
    LostReason,
    Service,
    Step,
    TurnJob,
    TurnSink,
    TurnTooLarge,
)
from kdcube.proc.bundles.limits import ProcessLimits
from kdcube.proc.bundles.process import HostProcess
from kdcube.proc.bundles.share import ReadShare
from kdcube.proc.bundles.sources.source import Code
from kdcube.proc.bundles.turns import RunningTurn
from kdcube.protocol.errors import KDCubeError
from kdcube.sdk import wire

_log = structlog.get_logger("kdcube.bundle")
_FRAME_MARGIN_BYTES = 1024
_WIRE_LINGER_S = 0.5
_APPLYING_MAX = 1024


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Times of rule 9, and how often they are looked at."""

    beat_timeout_s: float = 10.0
    cancel_grace_s: float = 5.0
    abandon_grace_s: float = 2.0
    """Within the 3 s for which a lease is safe when it is given up."""
    load_timeout_s: float = 60.0
    stop_grace_s: float = 5.0
    watch_interval_s: float = 0.5
    debug: bool = False
    """``breakpoint()`` waits for a debugger, instead of failing."""


class BundleLoadError(KDCubeError):
    """A bundle does not load."""

    def __init__(self, bundle_id: str, reason: str) -> None:
        super().__init__(f"bundle {bundle_id} does not load: {reason}")
        self.bundle_id = bundle_id
        self.reason = reason


class BundleHost:
    """A process that has loaded one version of one bundle. Made by ``launch``."""

    def __init__(
        self, entry: BundleEntry, code: Code, process: HostProcess, limits: HostLimits, clock: Callable[[], float],
        on_change: Callable[[BundleHost], None],
    ) -> None:  # fmt: skip
        self.entry = entry
        self.code = code
        self.version = code.version
        self.limits = limits
        self.clock = clock
        self.pid = process.pid
        self.max_attempts = 1
        self.operations: Mapping[str, wire.Operation] = {}
        self.schemas: Mapping[str, Any] = {}
        """What those of operations refer to."""
        self.retiring = False
        self.lost = False
        """It takes and says nothing any more; its turns are settled."""
        self.gone = False
        """The process has ended and nothing of it is left."""
        self.idle_since = clock()
        self.turns_ended = 0
        self.seats = 0
        """Turns that are going to start here; the host stays for them."""
        self.full: tuple[str, str] | None = None
        """The limit that it has used up, and the figures: it finishes what it has, and gets nothing new."""
        self.counted = False
        """Its loss is."""
        self._process = process
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._channel = wire.Channel(wire.from_host_decoder, self._receive, self._wire_lost, self._read_for)
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._turns: dict[int, RunningTurn] = {}
        self._calls: dict[int, RunningCall] = {}
        self._applying: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._stopping: asyncio.TimerHandle | None = None
        self._wire_ended = asyncio.Event()
        self.doom: LostReason = "crash"
        """Why it is lost, once it is."""
        self.detail = ""
        """What the operator should know of that."""
        self._condemned = False
        self._silent_s = 0.0
        self._share = ReadShare()
        self._reading_again: asyncio.TimerHandle | None = None
        self._throttled = False
        self._reaping = self._loop.create_task(self._reap(), name=f"host {process.pid}")
        process.listen(self._judged)

    @classmethod
    async def launch(
        cls, entry: BundleEntry, code: Code, *, run_dir: Path, pulse_fd: int, limits: HostLimits,
        process_limits: ProcessLimits, clock: Callable[[], float], on_change: Callable[[BundleHost], None],
        python: str = sys.executable,
    ) -> BundleHost:  # fmt: skip
        """Starts a process and has it load the bundle. Raises BundleLoadError; then the process is gone."""
        try:
            process = await HostProcess.start(
                entry.id, run_dir, clock, pulse_fd, process_limits, python=python, debug=limits.debug
            )
        except OSError as error:
            raise BundleLoadError(entry.id, f"the process does not start: {error}") from error
        host = cls(entry, code, process, limits, clock, on_change)
        try:
            await host._loop.create_unix_connection(lambda: host._channel, sock=process.wire)
            host._channel.send(wire.Load(code.path, entry.module, entry.id))
            async with asyncio.timeout(limits.load_timeout_s):
                await asyncio.shield(host._loaded)
        except BaseException as error:
            host.retiring = True
            await host.kill("killed")
            if isinstance(error, TimeoutError):
                raise BundleLoadError(entry.id, f"it takes longer than {limits.load_timeout_s:g} s") from error
            if isinstance(error, OSError):
                raise BundleLoadError(entry.id, f"its process cannot be reached: {error}") from error
            raise
        return host

    # ---- turns and operations

    @property
    def running(self) -> int:
        """Turns that have no outcome yet."""
        return sum(not turn.settled for turn in self._turns.values())

    @property
    def occupied(self) -> int:
        """Turns that run here, or are going to."""
        return self.running + self.seats

    @property
    def failing(self) -> bool:
        """It is lost, is being ended, or runs a turn that does not stop: no turn is to start here."""
        return self.lost or self._condemned or any(turn.settled for turn in self._turns.values())

    def take_seat(self) -> None:
        self.seats += 1

    def leave_seat(self) -> None:
        self.seats -= 1
        self._changed()

    def start(self, job: TurnJob, sink: TurnSink) -> RunningTurn:
        """For whoever has a seat. Raises TurnTooLarge, BundleUnavailable."""
        if self.lost:
            raise BundleUnavailable(self.entry.id, "its host is leaving")
        self._numbers += 1
        envelope, trace = job.envelope, job.trace
        message = wire.encode_message(
            wire.StartTurn(
                turn=self._numbers,
                turn_id=envelope.turn_id,
                attempt=job.attempt,
                text=envelope.text,
                payload=envelope.payload,
                user=wire.User(envelope.user_id, envelope.user_type, envelope.roles),
                history=job.history,
                state=job.state,
                config=job.config,
                secrets=job.secrets,
                unreadable=job.unreadable,
                traceparent=trace.traceparent if trace else "",
                tracestate=trace.tracestate if trace else "",
            )
        )
        if len(message) > wire.MAX_FRAME_BYTES - _FRAME_MARGIN_BYTES:
            raise TurnTooLarge
        self._process.concealing.add(job.secrets)
        turn = RunningTurn(self._numbers, self, sink, self.clock())
        self._turns[turn.number] = turn
        self.send(msgspec.Raw(message))
        return turn

    def call(self, job: CallJob) -> RunningCall:
        """Raises TurnTooLarge, BundleUnavailable."""
        if self.lost or self.retiring:
            raise BundleUnavailable(self.entry.id, "its host is leaving")
        self._numbers += 1
        self._process.concealing.add(job.secrets)
        call = RunningCall.start(
            self._numbers, job, self.send, grace_s=self.limits.cancel_grace_s, on_unresponsive=self._unresponsive
        )
        self._calls[call.number] = call
        return call

    def _unresponsive(self, call: RunningCall) -> None:
        self.retire("operation does not stop")

    @property
    def calling(self) -> int:
        """Operations that have no outcome yet."""
        return sum(not call.settled for call in self._calls.values())

    @property
    def busy(self) -> bool:
        return bool(self._turns or self.seats or self._calls)

    def send(self, message: Any) -> None:
        """Says something to the host, in order; what is said to a host that is gone is lost."""
        self._channel.send(message)

    # ---- what the host says

    def _receive(self, messages: list[wire.FromHost]) -> None:
        turns, now = self._turns, self.clock()
        for message in messages:
            if type(message) is Delta or type(message) is Step or type(message) is Service:
                turn = turns.get(message.turn)
                if turn is None or turn.outcome.done():
                    continue
                turn.heard_at = now
                if type(message) is Delta:
                    turn.unacknowledged += message.n_bytes
                    if turn.unacknowledged > wire.CREDIT_BYTES:
                        self._channel.fail(wire.WireError("text beyond its credit"))
                        return
                turn.sink.emit(message)
            else:
                self._control(message, now)

    def _control(self, message: wire.FromHost, now: float) -> None:
        match message:
            case wire.Ended():
                if turn := self._turns.pop(message.turn, None):
                    turn.end(message, self._process.concealing.without(message.detail))
                    self.turns_ended += 1
                    self.idle_since = now
                    self._changed()
            case wire.Apply():
                turn = self._turns.get(message.turn)
                if len(self._applying) >= _APPLYING_MAX:
                    self._channel.fail(wire.WireError("more at once than a bundle can ask"))
                    return
                if turn is not None and not turn.settled:
                    turn.heard_at = now
                    self._apply(turn, message)
            case wire.Item():
                call = self._calls.get(message.call)
                if call is not None and not call.item(message.data):
                    self._channel.fail(wire.WireError("items beyond their credit"))
            case wire.AskConversation() | wire.AskTurn():
                if call := self._calls.get(message.call):
                    call.ask(message)
            case wire.Returned():
                if call := self._calls.pop(message.call, None):
                    call.end(message, self._process.concealing.without(message.detail))
                    self.idle_since = now
                    self._changed()
            case wire.Loaded() if not self._loaded.done():
                self.max_attempts = message.max_attempts
                self.operations = {operation.name: operation for operation in message.operations}
                self.schemas = message.schemas
                self._loaded.set_result(None)
            case wire.LoadFailed() if not self._loaded.done():
                self._loaded.set_exception(BundleLoadError(self.entry.id, message.message))
            case _:
                self._channel.fail(wire.WireError(f"{type(message).__name__} out of place"))

    def _apply(self, turn: RunningTurn, message: wire.Apply) -> None:
        """The bundle wants to take steers: the sink decides."""

        async def ask() -> None:
            try:
                applied = await turn.sink.apply(message.steer_ids)
            except Exception:  # noqa: BLE001 - logged; the turn goes on without these steers, and they stay unapplied
                _log.exception("steer_not_applied", steers=message.steer_ids)
                applied = set[str]()
            self.send(wire.Applied(turn.number, message.request, [id for id in message.steer_ids if id in applied]))

        task = self._loop.create_task(ask(), name=f"apply {message.steer_ids}")
        self._applying.add(task)
        task.add_done_callback(self._applying.discard)

    @property
    def loss(self) -> tuple[str, str] | None:
        """Why it ended otherwise than by proc's will, or has to, and the figures; None while it has not."""
        if self.full is not None:
            return self.full
        loaded = self._loaded.done() and self._loaded.exception() is None
        by_will = self.doom == "killed" or self.retiring or not loaded
        return (self.doom, self.detail) if self.lost and (self.detail or not by_will) else None

    # ---- limits

    def watch(self, elapsed_s: float) -> float | None:
        """Looks at the beat and at every turn's limits. ``elapsed_s``: since the last look. Returns how long the host's
        event loop keeps others waiting (s), when the host has said that since.

        Time in which proc itself stood still does not count as the host's silence.
        """
        if self.lost or not self._loaded.done():
            return None
        lag_s = None
        if beats := self._process.beats():
            self._silent_s = 0.0
            lag_s = wire.lag_of(beats[-1])
        else:
            self._silent_s += min(elapsed_s, 2 * self.limits.watch_interval_s)
        if self._silent_s > self.limits.beat_timeout_s:
            self.condemn("no_beat")
        else:
            now = self.clock()
            for turn in list(self._turns.values()):
                if now - turn.started_at > self.entry.wall_limit_s:
                    turn.stop("The time limit of a turn is reached.", "wall_limit")
                elif now - turn.heard_at > self.entry.idle_limit_s and turn.unacknowledged <= 0:
                    # with text unacknowledged it is the log that is slow, not the bundle
                    turn.stop("Nothing was heard for too long.", "idle_limit")
        return lag_s

    def _judged(self, word: str, limit: str, figures: str) -> None:
        """What the keeper found: ``over`` means that it ends the process now."""
        if word == "over" and not self.lost:
            self.doom, self.detail = cast("LostReason", limit), figures
        elif word == "full":
            self.full = limit, figures
            self.retire(f"{limit}: {figures}")

    def _read_for(self, seconds: float) -> None:
        """Proc's loop was busy so long with what this host says; its other hosts have theirs to say."""
        pause_s = self._share.spend(seconds, time.perf_counter())
        if pause_s <= 0:
            return
        if not self._throttled:
            self._throttled = True
            _log.warning("host_says_too_much", bundle=self.entry.id, version=self.version, pid=self.pid)
        self._channel.pause()
        self._reading_again = self._loop.call_later(pause_s, self._channel.resume)

    # ---- the end

    def retire(self, why: str) -> None:
        """Takes no more seats; leaves when the turns that it has are done."""
        if not self.retiring:
            self.retiring = True
            _log.info("host_retiring", bundle=self.entry.id, version=self.version, pid=self.pid, why=why)
        self._changed()

    def _changed(self) -> None:
        if self.retiring and not self.lost and not self.occupied and not self.calling:
            if self._turns or self._calls:  # only what does not stop
                self.condemn("unresponsive_cancel")
            elif self._stopping is None:
                self.send(wire.Stop())
                self._stopping = self._loop.call_later(self.limits.stop_grace_s, self._process.kill)
        self._on_change(self)

    async def kill(self, reason: LostReason) -> None:
        """Ends the process at once and waits for its end."""
        self.condemn(reason)
        await asyncio.shield(self._reaping)

    def condemn(self, reason: LostReason) -> None:
        """Ends the process at once; its turns are lost for ``reason``."""
        if not self.lost:
            self.doom = reason
        self._condemned = True
        self._process.kill()

    def _wire_lost(self, error: wire.WireError | None) -> None:
        """Everything that the host said has been read."""
        self._wire_ended.set()
        self._process.hear()  # the keeper speaks before it ends a process
        if error is not None:
            self.doom, self.detail = "wire", str(error)
            _log.error("host_broke_the_wire", bundle=self.entry.id, pid=self.pid, error=str(error))
        self._lose()
        self._process.kill()

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        for turn in list(self._turns.values()):
            turn.settle(HostLost(self.doom, self.detail))
        for call in self._calls.values():
            call.settle(CallLost(self.doom))
        if not self._loaded.done():
            why = f" over its {self.doom}: {self.detail}" if self.detail else ""
            self._loaded.set_exception(BundleLoadError(self.entry.id, f"its process ended while loading{why}"))
            self._loaded.exception()  # whoever launches it may have given up
        self._on_change(self)

    async def _reap(self) -> None:
        code = await self._process.exited
        if self._reading_again is not None:
            self._reading_again.cancel()
            self._channel.resume()
        try:
            async with asyncio.timeout(_WIRE_LINGER_S):
                await self._wire_ended.wait()
        except TimeoutError:  # a program that the bundle started holds the other end
            self._channel.close()
        self._lose()
        log = _log.bind(bundle=self.entry.id, version=self.version, pid=self.pid, code=code)
        if self.doom == "killed" or (self.retiring and not self.detail):
            log.info("host_left")
        else:
            log.error("host_lost", reason=self.doom, detail=self.detail)
        for turn in self._turns.values():
            turn.leave()
        self._turns.clear()
        for call in self._calls.values():
            call.leave()
        self._calls.clear()
        for task in self._applying:
            task.cancel()
        await self._process.reap()
        if self._stopping is not None:
            self._stopping.cancel()
        self.gone = True
        self._on_change(self)
