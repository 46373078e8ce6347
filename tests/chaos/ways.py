"""How a turn comes to each step of the protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.conftest import REPEATABLE, Steps
from tests.chaos.scene import Scene
from tests.e2e.client import Gate

from kdcube.protocol.ids import new_id

WORDS = "one two three four five"


@dataclass(frozen=True, slots=True)
class Traveller:
    """A user whose turns come by a step. ``gate`` holds what ``held`` has sent."""

    scene: Scene
    steps: Steps
    gate: Gate

    @classmethod
    def of(cls, scene: Scene, steps: Steps, folder: Path) -> Traveller:
        return cls(scene, steps, Gate(folder / f"gate-{new_id()}"))

    async def held(self, conversation: str, **trial: Any) -> str:
        """A turn that waits in mid-answer."""
        turn = await self.scene.sent(WORDS, conversation, trial={"hold": str(self.gate), "hold_after": 2, **trial})
        await self.scene.follow(turn, deltas=2)
        return turn


async def any_turn(user: Traveller) -> None:
    await user.scene.sent(WORDS, new_id())


async def second_turn(user: Traveller) -> None:
    conversation = new_id()
    for text in ("first", "second"):
        await user.scene.sent(text, conversation)


async def steer_that_is_applied(user: Traveller) -> None:
    conversation = new_id()
    await user.held(conversation)
    await user.scene.sent("and this", conversation, policy="steer")


async def steer_that_is_not_taken(user: Traveller) -> None:
    """It is applied for a bundle that has asked for it and ended meanwhile."""
    conversation = new_id()
    await user.held(conversation, hasty=True)
    await user.scene.sent("and this", conversation, policy="steer")


async def second_attempt(user: Traveller) -> None:
    turn = await user.scene.sent(WORDS, new_id(), bundle_id=REPEATABLE, echo={"crash_after": 1})
    user.scene.history.repeatable.add(turn)


async def cancel(user: Traveller) -> None:
    await user.scene.cancel(await user.held(new_id()))


async def cancel_of_a_claimed_turn(user: Traveller) -> None:
    start = user.steps["proc.start.before"]
    start.close()
    turn = await user.scene.sent(WORDS, new_id())
    await start.reached()
    await user.scene.cancel(turn)
    start.open()


async def cancel_that_is_not_heard(user: Traveller) -> None:
    """The turn is settled while its code runs on: its host is kept by another turn."""
    stubborn = await user.held(new_id(), stubborn=True)
    await user.held(new_id())
    await user.scene.cancel(stubborn)
    await user.scene.read(stubborn)
    user.gate.open()


Way = Callable[[Traveller], Awaitable[None]]

WAYS: dict[str, Way] = {
    "ingress.accept": any_turn,
    "ingress.cancel": cancel,
    "proc.claim": any_turn,
    "proc.start": any_turn,
    "proc.open": any_turn,
    "proc.append": any_turn,
    "proc.finish": any_turn,
    "proc.close": any_turn,
    "proc.history": second_turn,
    "proc.steers": steer_that_is_applied,
    "proc.apply": steer_that_is_applied,
    "proc.applied": steer_that_is_applied,
    "proc.untaken": steer_that_is_not_taken,
    "proc.again": second_attempt,
    "proc.requeue": second_attempt,
    "proc.release": second_attempt,
    "proc.discarded": cancel_of_a_claimed_turn,
    "proc.left": cancel_that_is_not_heard,
    "proc.exited": cancel_that_is_not_heard,
}
"""By the step's name without its last part."""
ORPHANS = ("proc.stands", "proc.get")
"""Steps of a turn whose worker died between its START and its log; ``get``: of one that was cancelled then."""
REBUILD = "proc.rebuild"


def stage(step: str) -> str:
    return step.rpartition(".")[0]
