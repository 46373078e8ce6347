"""Users who do what comes to their mind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.chaos.conftest import REPEATABLE
from tests.chaos.scene import Scene

OPEN_TURNS = 5
"""Of a user: who has more waits for one of them to end."""


@dataclass
class Crowd:
    """Several scenes, each with hands that send, steer, interrupt, cancel and reconnect at random."""

    scenes: Sequence[Scene]
    accepted: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Counts the turns of all."""
    hands: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def accepts(self, turns: int) -> None:
        """Wait until so many more turns are accepted."""
        for _ in range(turns):
            taking = asyncio.create_task(self.accepted.acquire())
            await asyncio.wait({taking, *self.hands}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                await asyncio.gather(*(hand for hand in self.hands if hand.done()))  # raises what broke it
                raise AssertionError("a hand has stopped by itself")

    async def ends(self, *, may_fail: bool = False) -> None:
        """All that was accepted ends, the histories are sound, and nothing failed."""
        turns = [turn for scene in self.scenes for turn in (await scene.settled()).values()]
        states = Counter(turn["state"] for turn in turns)
        print(f"{len(turns)} turns ended:", *(f"{state} {count}" for state, count in sorted(states.items())))
        assert may_fail or not states["failed"], "nobody asked for that"


@asynccontextmanager
async def crowd(
    scenes: Sequence[Scene],
    name: str,
    choose: random.Random,
    *,
    hands: int = 1,
    conversations: int = 3,
    crashes: float = 0.05,
) -> AsyncGenerator[Crowd]:
    """Hands at work as long as the context is open: so many a scene, who share its conversations.

    ``crashes`` is the share of turns that crash their bundle host.
    """
    crowd, stop = Crowd(scenes), asyncio.Event()
    for number, scene in enumerate(scenes):
        places = [f"{name}-{number}-{n}" for n in range(conversations)]
        for n in range(hands):
            hand = _Hand(f"{name}-{number}-{n}", scene, places, random.Random(choose.random()), crowd.accepted, crashes)
            crowd.hands.append(asyncio.create_task(hand.work(stop)))
    try:
        yield crowd
        stop.set()
        await asyncio.gather(*crowd.hands)
    finally:
        for task in crowd.hands:
            task.cancel()
        await asyncio.gather(*crowd.hands, return_exceptions=True)


class _Hand:
    def __init__(
        self,
        name: str,
        scene: Scene,
        conversations: list[str],
        choose: random.Random,
        accepted: asyncio.Semaphore,
        crashes: float,
    ) -> None:
        self._name = name
        self._scene = scene
        self._conversations = conversations
        self._random = choose
        self._accepted = accepted
        self._crashes = crashes
        self._turns: list[str] = []

    async def work(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            if len(reading := self._scene.unfinished) >= OPEN_TURNS:
                await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                continue
            number += 1
            await self._send(f"{self._name} says {number}")
            if self._turns and self._random.random() < 0.15:
                await self._cancel(self._random.choice(self._turns))

    async def _send(self, text: str) -> None:
        choose = self._random
        policy = choose.choices(["enqueue", "steer", "interrupt", "reject"], [5, 3, 1, 1])[0]
        orders: dict[str, Any] = {"deltas": choose.randint(0, 60), "delay_ms": choose.choice([0, 1, 5, 20])}
        if choose.random() < self._crashes:
            orders["crash_after"] = choose.randint(0, 30)
        bundle = {"bundle_id": REPEATABLE} if choose.random() < 0.3 else {}
        conversation = choose.choice(self._conversations)
        trial = {"deaf": choose.random() < 0.3}
        send = await self._scene.send(
            text, conversation, at=choose.randrange(2), policy=policy, echo=orders, trial=trial, **bundle
        )
        if send.task_id is None:
            return
        if bundle:
            self._scene.history.repeatable.add(send.task_id)
        self._accepted.release()
        self._turns.append(send.task_id)
        often = choose.choice([0.0, 0.1, 0.5])
        await self._scene.follow(send.task_id, at=choose.randrange(2), cut=lambda _: choose.random() < often)

    async def _cancel(self, turn: str) -> None:
        with suppress(httpx.TransportError):  # it may have been heard
            await self._scene.client.ask("POST", "/sse/cancel", json={"turn_id": turn}, at=self._random.randrange(2))
