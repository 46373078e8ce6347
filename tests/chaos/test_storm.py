"""Several users send, steer, interrupt, cancel and reconnect at random while one part after the other dies.

``KDCUBE_CHAOS_SEED`` repeats the choices of a run, which prints its own; ``KDCUBE_CHAOS_ROUNDS`` makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from tests.chaos.conftest import REPEATABLE
from tests.chaos.scene import Scene

ROUNDS = int(os.environ.get("KDCUBE_CHAOS_ROUNDS") or 1)
PATIENCE_S = 240.0 * ROUNDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(PATIENCE_S + 60)]

VICTIMS = ("ingress-0", "ingress-1", "proc-0", "valkey", "postgres", "host")
USERS = 3
OPEN_TURNS = 5
"""Of a user: who has more waits for one of them to end."""
PAUSE_TURNS = 6
"""Turns that are accepted between one kill and the next."""
CROWD_TURNS = 100 * ROUNDS


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("KDCUBE_CHAOS_SEED") or random.randrange(2**32))
    print(f"KDCUBE_CHAOS_SEED={seed}")
    return seed


class Hand:
    """Sends, cancels and reads at random. A user may have several. ``accepted`` counts the turns of all."""

    def __init__(
        self, name: str, scene: Scene, conversations: list[str], seed: int, accepted: asyncio.Semaphore
    ) -> None:
        self._name = name
        self._scene = scene
        self._conversations = conversations
        self._random = random.Random(f"{seed}-{name}")
        self._accepted = accepted
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
        if choose.random() < 0.05:
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


def deaths(choose: random.Random) -> Iterator[list[str]]:
    """Who dies together, in which order: everybody once in a round."""
    for _ in range(ROUNDS):
        victims = choose.sample(VICTIMS, len(VICTIMS))
        while victims:
            together = choose.choice([1, 1, 2])
            yield victims[:together]
            del victims[:together]


async def die(scene: Scene, victims: list[str]) -> None:
    """Returns when they are back."""
    began = time.monotonic()
    if "host" in victims:
        for pid in await asyncio.to_thread(scene.stack.host_pids):
            with suppress(ProcessLookupError):  # it was told to crash
                os.kill(pid, signal.SIGKILL)
    await scene.kill(*(victim for victim in victims if victim != "host"))
    await scene.healed()
    print(f"{' and '.join(victims)}: ready again after {time.monotonic() - began:.1f} s")


async def sound(scenes: list[Scene]) -> None:
    """All that was accepted has ended, the histories are sound, and nothing failed."""
    turns = [turn for scene in scenes for turn in (await scene.settled()).values()]
    states = Counter(turn["state"] for turn in turns)
    print(f"{len(turns)} turns ended:", *(f"{state} {count}" for state, count in states.items()))
    assert not states["failed"], "nobody asked for that"


async def test_the_history_is_sound_whatever_dies(enter, conversation, seed):
    accepted, stop = asyncio.Semaphore(0), asyncio.Event()
    scenes = [enter() for _ in range(USERS)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number, patience_s=PATIENCE_S)
    hands = [
        Hand(f"{conversation}-{number}", scene, [f"{conversation}-{number}-{n}" for n in range(3)], seed, accepted)
        for number, scene in enumerate(scenes)
    ]
    working = [asyncio.create_task(hand.work(stop)) for hand in hands]
    for victims in deaths(random.Random(seed)):
        for _ in range(PAUSE_TURNS):
            await accepted.acquire()
        await die(scenes[0], victims)
    stop.set()
    await asyncio.gather(*working)
    await sound(scenes)


async def test_the_history_is_sound_when_all_happens_at_once(enter, conversation, seed):
    """Many hands in few conversations; only bundles crash."""
    accepted, stop = asyncio.Semaphore(0), asyncio.Event()
    scenes = [enter() for _ in range(2)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number, patience_s=PATIENCE_S)
    hands = [
        Hand(f"{conversation}-{number}-{n}", scene, [f"{conversation}-{number}"], seed, accepted)
        for number, scene in enumerate(scenes)
        for n in range(5)
    ]
    working = [asyncio.create_task(hand.work(stop)) for hand in hands]
    for _ in range(CROWD_TURNS):
        await accepted.acquire()
    stop.set()
    await asyncio.gather(*working)
    await sound(scenes)
