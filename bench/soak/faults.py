"""Random crashes, one at a time; the next comes only when the system has healed from the last."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from bench.soak.system import System

HEAL_LIMIT_S = 90.0
SHORT_STOP_S = (0.5, 8.0)
"""Shorter than a lease (15 s): nothing is taken from it."""
LONG_STOP_S = (18.0, 26.0)
_WATCHED = 1
"""The ingress process and the proc of this number are never killed: their memory is watched over the whole run."""


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault: when it came and when everything was ready again, in seconds of the run."""

    what: str
    at_s: float
    healed_s: float | None


class Faults:
    """``strike_often`` runs until ``end``; ``struck`` grows by one record a fault."""

    def __init__(self, system: System, choose: random.Random, clock: Callable[[], float]) -> None:
        self._system = system
        self._choose = choose
        self._clock = clock
        self._stopped: int | None = None
        self._ending = asyncio.Event()
        self.struck: list[Struck] = []
        self._ways: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("bundle host killed", 4, self._kill_host),
            ("ingress killed", 3, lambda: self._kill("ingress-0")),
            ("proc killed", 2, lambda: self._kill("proc-0")),
            ("proc stopped for less than a lease", 2, lambda: self._stop(SHORT_STOP_S)),
            ("proc stopped for more than a lease", 1, lambda: self._stop(LONG_STOP_S)),
            ("Valkey killed, comes back empty", 2, lambda: self._kill("valkey")),
            ("PostgreSQL killed", 2, lambda: self._kill("postgres")),
        ]

    async def strike_often(self, mean_pause_s: float) -> None:
        """A fault after each pause. One that is under way when it ends is seen through: what it did is known."""
        while not self._ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self._choose.uniform(0.3, 1.7) * mean_pause_s)
                return
            await self.strike()

    def end(self) -> None:
        self._ending.set()

    async def strike(self) -> None:
        """One fault, until everything is ready again."""
        ((what, _, way),) = self._choose.choices(self._ways, [weight for _, weight, _ in self._ways])
        at_s, began = self._clock(), time.monotonic()
        try:
            await way()
        finally:
            self._wake()
        healed = await self._system.healed(HEAL_LIMIT_S)
        self.struck.append(Struck(what, at_s, self._clock() if healed else None))
        print(f"{at_s:7.1f} s: {what}; all ready after {time.monotonic() - began:.1f} s", flush=True)

    async def _kill(self, instance: str) -> None:
        pid = self._system.pids().get(instance)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while self._system.pids().get(instance) == pid:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _kill_host(self) -> None:
        hosts = await asyncio.to_thread(self._system.hosts)
        if hosts:
            with suppress(ProcessLookupError):
                os.kill(self._choose.choice(hosts), signal.SIGKILL)

    async def _stop(self, seconds: tuple[float, float]) -> None:
        pid = self._system.pids().get(f"proc-{self._choose.randrange(2)}")
        if pid is not None:
            self._stopped = pid
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self._choose.uniform(*seconds))

    def _wake(self) -> None:
        if self._stopped is not None:
            with suppress(ProcessLookupError):
                os.kill(self._stopped, signal.SIGCONT)
            self._stopped = None
