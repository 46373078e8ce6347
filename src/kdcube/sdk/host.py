"""The process of a bundle: ``python -m kdcube.sdk.host --wire FD --beat FD --pulse FD``, started by proc alone.

It has no credentials and no environment to speak of, and its parent holds it to its limits (``proc.bundles.keeper``).
It knows proc by the socket on ``--wire``, and leaves when that closes. A thread writes a byte a second to the pipe on
``--beat``, so a blocked loop still beats and an interpreter that stands still does not. The same thread watches proc's
own sign of life, a counter in the memory of ``--pulse``.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import mmap
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Coroutine
from typing import Any

from kdcube.sdk.breakpoints import on_breakpoint
from kdcube.sdk.bundle import Bundle
from kdcube.sdk.calling import CallRun
from kdcube.sdk.loading import LoadError, load_bundle, load_operations
from kdcube.sdk.operations import Operations
from kdcube.sdk.running import TurnRun
from kdcube.sdk.wire import (
    BEAT_S,
    PROC_SILENCE_S,
    Call,
    CallCredit,
    CancelCall,
    Channel,
    FrameReader,
    Load,
    Loaded,
    LoadFailed,
    StartTurn,
    Stop,
    ToHost,
    Told,
    WireError,
    encode_frames,
    lag_byte,
    to_host_decoder,
)

try:
    from uvloop import new_event_loop
except ImportError:  # a bundle's own environment need not have it
    from asyncio import new_event_loop


class Host:
    """Routes what proc says to the turns and calls that run here."""

    def __init__(self, bundle: Bundle, operations: Operations) -> None:
        self._bundle = bundle
        self._operations = operations
        self._turns: dict[int, TurnRun] = {}
        self._calls: dict[int, CallRun] = {}
        self._channel: Channel[ToHost]
        self._stopped = asyncio.Event()

    async def serve(self, wire: socket.socket) -> None:
        """Until proc says Stop or is gone."""
        _, self._channel = await asyncio.get_running_loop().create_unix_connection(
            lambda: Channel(to_host_decoder, self._receive, self._lost), sock=wire
        )
        self._channel.send(Loaded(self._bundle.max_attempts, self._operations.described, self._operations.schemas))
        await self._stopped.wait()

    def _lost(self, error: WireError | None) -> None:
        if error is not None:
            print(f"kdcube host: {error}", file=sys.stderr, flush=True)
        if not self._stopped.is_set():
            os._exit(1)  # proc is gone or has given up on this host: what runs here has no reader and no fence any more

    def _receive(self, messages: list[ToHost]) -> None:
        for message in messages:
            if isinstance(message, StartTurn):
                run = TurnRun(self._bundle, message, self._channel.send)
                self._turns[message.turn] = run
                number = message.turn
                run.task.add_done_callback(lambda _, number=number: self._turns.pop(number, None))
            elif isinstance(message, Call):
                self._start_call(message)
            elif isinstance(message, CallCredit | Told):
                if call := self._calls.get(message.call):
                    call.receive(message)
            elif isinstance(message, CancelCall):
                if call := self._calls.get(message.call):
                    call.cancel()
            elif isinstance(message, Stop):
                self._stopped.set()
            elif isinstance(message, Load):
                self._channel.fail(WireError("a second Load"))
            elif run := self._turns.get(message.turn):  # else it has just ended
                run.receive(message)

    def _start_call(self, call: Call) -> None:
        run = self._calls[call.call] = CallRun(self._operations, call, self._channel.send)
        run.task.add_done_callback(lambda _: self._calls.pop(call.call, None))


def main() -> None:
    parser = argparse.ArgumentParser(prog="kdcube.sdk.host", description="Started by kdcube proc.")
    parser.add_argument("--wire", type=int, required=True)
    parser.add_argument("--beat", type=int, required=True)
    parser.add_argument("--pulse", type=int, required=True)
    parser.add_argument("--debug", action="store_true", help="breakpoint() waits for a debugger")
    arguments = parser.parse_args()
    faulthandler.enable()  # a crash inside an extension says where, in proc's log
    os.set_inheritable(arguments.wire, False)  # programs that the bundle starts must not keep them open
    os.set_inheritable(arguments.beat, False)
    os.register_at_fork(after_in_child=lambda: _let_go(arguments.wire, arguments.beat))
    with os.fdopen(arguments.pulse, "rb") as file:
        pulse = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    lag = LoopLag()
    threading.Thread(target=_beat, args=(arguments.beat, pulse, lag), name="beat", daemon=True).start()

    if arguments.debug:
        sys.breakpointhook = on_breakpoint
    wire = socket.socket(fileno=arguments.wire)
    load = _first_message(wire)
    try:
        bundle = load_bundle(load.path, load.module, load.bundle_id)
        operations = load_operations(bundle)
    except LoadError as error:
        wire.sendall(b"".join(encode_frames([LoadFailed(str(error))])))
        return
    gc.collect()
    gc.freeze()  # what import left behind is never garbage: later collections need not look at it
    wire.setblocking(False)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        lag.loop = runner.get_loop()
        _run(lag.loop, Host(bundle, operations).serve(wire))
        lag.loop = None


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    """Until ``work`` is done. A ``sys.exit`` in a task of the bundle is that task's end, and nobody else's."""
    task = loop.create_task(work)
    while not task.done():
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as left:
            if task.done():
                raise
            traceback.print_exception(left)


def _let_go(*descriptors: int) -> None:
    """In a process that the bundle forked: it must neither speak nor beat for this one."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in descriptors:
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def _first_message(wire: socket.socket) -> Load:
    reader = FrameReader(to_host_decoder)
    while True:
        data = wire.recv(65536)
        if not data:
            sys.exit(1)
        for message in reader.feed(data):
            if isinstance(message, Load):
                return message
            sys.exit("kdcube host: the first message must be Load")


class LoopLag:
    """How long the event loop keeps others waiting, asked from another thread once a beat."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._asked_at: float | None = None
        self._last_s: float | None = None

    def look(self, now: float) -> float | None:
        """The latest answer, or how long the loop has owed one; None before the first. ``now`` is monotonic."""
        if self._asked_at is not None:
            return now - self._asked_at
        loop = self.loop
        if loop is not None:
            self._asked_at = now
            try:
                loop.call_soon_threadsafe(self._answer, now)
            except RuntimeError:  # it has just been closed
                self._asked_at = None
        return self._last_s

    def _answer(self, asked_at: float) -> None:
        self._last_s = time.monotonic() - asked_at
        self._asked_at = None


def _beat(fd: int, pulse: mmap.mmap, lag: LoopLag) -> None:
    os.set_blocking(fd, False)
    felt, silent_s, before = pulse[:], 0.0, time.monotonic()
    while True:
        try:
            os.write(fd, bytes((lag_byte(lag.look(time.monotonic())),)))
        except BlockingIOError:
            pass  # proc has not read for long; it will find enough beats when it does
        except OSError:
            os._exit(1)  # proc is gone
        time.sleep(BEAT_S)
        now = time.monotonic()
        if pulse[:] != felt:
            felt, silent_s = pulse[:], 0.0
        elif any(felt):  # it has begun; time in which this process itself stood still does not count
            silent_s += min(now - before, 2 * BEAT_S)
        if silent_s > PROC_SILENCE_S:
            os._exit(1)  # another worker may soon go on where proc stopped
        before = now


if __name__ == "__main__":
    main()
