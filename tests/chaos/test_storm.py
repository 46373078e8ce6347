"""Several users send, steer, interrupt, cancel and reconnect at random while one part after the other dies.

``KDCUBE_CHAOS_SEED`` repeats the choices of a run, which prints its own; ``KDCUBE_CHAOS_ROUNDS`` makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
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


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("KDCUBE_CHAOS_SEED") or random.randrange(2**32))
    print(f"KDCUBE_CHAOS_SEED={seed}")
    return seed


class User:
    """``accepted`` counts the turns of all users."""

    def __init__(self, number: int, scene: Scene, seed: int, prefix: str, accepted: asyncio.Semaphore) -> None:
        self.scene = scene
        self._random = random.Random(f"{seed}-{number}")
        self._name = f"{prefix}-{number}"
        self._conversations = [f"{prefix}-{number}-{n}" for n in range(3)]
        self._accepted = accepted
        self._turns: list[str] = []

    async def live(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            if len(reading := self.scene.unfinished) >= OPEN_TURNS:
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
        send = await self.scene.send(
            text, conversation, at=choose.randrange(2), policy=policy, echo=orders, trial=trial, **bundle
        )
        if send.task_id is None:
            return
        if bundle:
            self.scene.history.repeatable.add(send.task_id)
        self._accepted.release()
        self._turns.append(send.task_id)
        often = choose.choice([0.0, 0.1, 0.5])
        await self.scene.follow(send.task_id, at=choose.randrange(2), cut=lambda _: choose.random() < often)

    async def _cancel(self, turn: str) -> None:
        with suppress(httpx.TransportError):  # it may have been heard
            await self.scene.client.ask("POST", "/sse/cancel", json={"turn_id": turn}, at=self._random.randrange(2))


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


async def test_the_history_is_sound_whatever_dies(enter, conversation, seed):
    accepted, stop = asyncio.Semaphore(0), asyncio.Event()
    users = [User(number, enter(), seed, conversation, accepted) for number in range(USERS)]
    for number, user in enumerate(users):
        await user.scene.watch(at=number, patience_s=PATIENCE_S)
    lives = [asyncio.create_task(user.live(stop)) for user in users]
    for victims in deaths(random.Random(seed)):
        for _ in range(PAUSE_TURNS):
            await accepted.acquire()
        await die(users[0].scene, victims)
    stop.set()
    await asyncio.gather(*lives)
    turns = [turn for user in users for turn in (await user.scene.settled()).values()]
    assert not [turn for turn in turns if turn["state"] == "failed"], "nobody asked for that"
    states = sorted({turn["state"] for turn in turns})
    print(
        f"{len(turns)} turns ended:", *(f"{state} {sum(turn['state'] == state for turn in turns)}" for state in states)
    )
