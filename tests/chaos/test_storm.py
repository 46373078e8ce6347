"""Several users send, steer, interrupt, cancel and reconnect at random while one part after the other dies.

``KDCUBE_SEED`` repeats the choices of a run; ``KDCUBE_CHAOS_ROUNDS`` makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.chaos.hands import crowd
from tests.chaos.scene import Scene

ROUNDS = int(os.environ.get("KDCUBE_CHAOS_ROUNDS") or 1)
PATIENCE_S = 240.0 * ROUNDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(PATIENCE_S + 60)]

VICTIMS = ("ingress-0", "ingress-1", "proc-0", "valkey", "postgres", "host")
USERS = 3
PAUSE_TURNS = 6
"""Turns that are accepted between one kill and the next."""
CROWD_TURNS = 100 * ROUNDS


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


async def test_the_history_is_sound_whatever_dies(enter, conversation, choose):
    scenes = [enter(PATIENCE_S) for _ in range(USERS)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number)
    async with crowd(scenes, conversation, choose) as users:
        for victims in deaths(choose):
            await users.accepts(choose.randint(1, 2 * PAUSE_TURNS))
            await die(scenes[0], victims)
    await users.ends()


async def test_the_history_is_sound_when_all_happens_at_once(enter, conversation, choose):
    """Many hands in few conversations; only bundles crash."""
    scenes = [enter(PATIENCE_S) for _ in range(2)]
    for number, scene in enumerate(scenes):
        await scene.watch(at=number)
    async with crowd(scenes, conversation, choose, hands=5, conversations=1) as users:
        await users.accepts(CROWD_TURNS)
    await users.ends()
