"""Several users send, steer, interrupt, cancel and reconnect at random while one part after the other dies.

``KDCUBE_CHAOS_SEED`` repeats the choices of a run, which prints its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest
from tests.chaos.scene import Scene

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

VICTIMS = ("ingress-0", "ingress-1", "proc-0", "valkey", "postgres", "host")
USERS = 3
OPEN_TURNS = 5
"""Of a user: who has more waits for one of them to end."""
PAUSE_TURNS = 6
"""Turns that are accepted between one kill and the next."""
PATIENCE_S = 240.0


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
        send = await self.scene.send(
            text, choose.choice(self._conversations), at=choose.randrange(2), policy=policy, echo=orders
        )
        if send.task_id is None:
            return
        self._accepted.release()
        self._turns.append(send.task_id)
        often = choose.choice([0.0, 0.1, 0.5])
        await self.scene.follow(send.task_id, at=choose.randrange(2), cut=lambda _: choose.random() < often)

    async def _cancel(self, turn: str) -> None:
        with suppress(httpx.TransportError):  # it may have been heard
            await self.scene.client.ask("POST", "/sse/cancel", json={"turn_id": turn}, at=self._random.randrange(2))


async def test_the_history_is_sound_whatever_dies(enter, conversation, seed):
    accepted, stop = asyncio.Semaphore(0), asyncio.Event()
    users = [User(number, enter(), seed, conversation, accepted) for number in range(USERS)]
    for number, user in enumerate(users):
        await user.scene.watch(at=number, patience_s=PATIENCE_S)
    lives = [asyncio.create_task(user.live(stop)) for user in users]
    victims = list(VICTIMS)
    random.Random(seed).shuffle(victims)
    print("they die in this order:", *victims)
    scene = users[0].scene
    for victim in victims:
        for _ in range(PAUSE_TURNS):
            await accepted.acquire()
        began = time.monotonic()
        if victim == "host":
            for pid in await asyncio.to_thread(scene.stack.host_pids):
                os.kill(pid, signal.SIGKILL)
        else:
            await scene.kill(victim)
        await scene.healed()
        print(f"{victim} was back after {time.monotonic() - began:.1f} s")
    stop.set()
    await asyncio.gather(*lives)
    turns = [turn for user in users for turn in (await user.scene.settled()).values()]
    states = sorted({turn["state"] for turn in turns})
    print(
        f"{len(turns)} turns ended:", *(f"{state} {sum(turn['state'] == state for turn in turns)}" for state in states)
    )
