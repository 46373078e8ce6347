"""The load: visitors who come and go, messages that are due at random moments, whatever the system does meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Coroutine
from pathlib import Path

from bench.soak.visitor import OPEN_TURNS, Habits, Tally, Visitor
from bench.soak.wire import Address

VISITORS = 40
"""At a time, at least; more when turns take long, because nobody waits for more than a few."""
IN_FLIGHT = (16, 64, 192)
"""Of the ramp: so many messages are under way at any time."""
_SETTLED_SHARE = 0.3


class Load:
    """Messages of visitors. ``tally`` is what they saw."""

    def __init__(self, addresses: list[Address], folder: Path, habits: Habits, choose: random.Random) -> None:
        self._addresses = addresses
        self._folder = folder
        self._habits = habits
        self._choose = choose
        self.tally = Tally()
        self.worst_lag_s = 0.0
        """How much later than due a message was sent, at worst, because this process was busy."""
        self._visitors: list[Visitor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._says: dict[Visitor, set[asyncio.Task[None]]] = {}

    async def open_loop(self, rate_per_s: float, seconds: float) -> None:
        """A Poisson process of messages."""
        loop_until = time.monotonic() + seconds
        due = time.monotonic()
        while (due := due + self._choose.expovariate(rate_per_s)) < loop_until:
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                self.worst_lag_s = max(self.worst_lag_s, -wait_s)
                if not self.tally.sent % 50:
                    await asyncio.sleep(0)
            self._say(due)

    async def ramp(self, seconds: float) -> float:
        """The most turns a second that this machine carries with this load generator beside the system."""
        best = 0.0
        for in_flight in IN_FLIGHT:
            share_s = seconds / len(IN_FLIGHT)
            until = time.monotonic() + share_s
            counting_from, counted = time.monotonic() + _SETTLED_SHARE * share_s, 0
            running: set[asyncio.Task[None]] = set()
            while (now := time.monotonic()) < until:
                while len(running) < in_flight:
                    running.add(self._say(now, to_end=True))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                counted += len(done) if now >= counting_from else 0
            best = max(best, counted / (until - counting_from))
        return best

    async def settle(self) -> None:
        """Everybody leaves: all that was accepted has ended and is proven."""
        for visitor in self._visitors:
            self._leave(visitor)
        self._visitors.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def visitors(self) -> int:
        return len(self._says)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for visitor in self._says:
            visitor.close()

    def _say(self, due: float, *, to_end: bool = False) -> asyncio.Task[None]:
        visitor = self._someone()
        visitor.messages_left -= 1
        task = self._task(self._careful(visitor.say(due, to_end=to_end)))
        says = self._says.setdefault(visitor, set())
        says.add(task)
        task.add_done_callback(says.discard)
        if not visitor.messages_left:
            self._visitors.remove(visitor)
            self._leave(visitor)
        return task

    def _someone(self) -> Visitor:
        if len(self._visitors) >= VISITORS:
            visitor = self._choose.choice(self._visitors)
            if visitor.waits_for < OPEN_TURNS:
                return visitor
        choose = random.Random(self._choose.random())  # noqa: S311 - no secret
        visitor = Visitor(self._addresses, self._folder, self.tally, self._habits, choose)
        self._visitors.append(visitor)
        return visitor

    def _leave(self, visitor: Visitor) -> None:
        self._task(self._careful(self._last_steps(visitor)))

    async def _last_steps(self, visitor: Visitor) -> None:
        while says := self._says.get(visitor):
            await asyncio.wait(says)
        try:
            await visitor.leave()
        finally:
            visitor.close()
            self._says.pop(visitor, None)

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _careful(self, work: Coroutine[None, None, None]) -> None:
        """What breaks a visitor is a finding, and the others go on."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - reported: it makes the soak fail
            self.tally.found("".join(traceback.format_exception(error))[-2000:])
