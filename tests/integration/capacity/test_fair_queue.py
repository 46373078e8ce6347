"""The simulation's queue and the scripts, side by side: the same turns in the same order, whatever happens."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from tests.integration.redis.partition import Partition, a_message, a_partition

from kdcube.capacity.fair_queue import FairQueue
from kdcube.protocol.turns import TurnEnvelope, TurnState, UserType
from kdcube.redis.admission import Admitted
from kdcube.redis.queue import Claim, ClassShare

pytestmark = pytest.mark.anyio

SHARES = {
    UserType.PRIVILEGED: ClassShare(8),
    UserType.PAID: ClassShare(3),
    UserType.REGISTERED: ClassShare(2, share=0.3),
    UserType.ANONYMOUS: ClassShare(1),
}
SLOTS, PER_USER, BUNDLES = 10, 2, ("a@1", "b@1", "c@1")


@dataclass(frozen=True)
class Turn:
    user_type: UserType
    user: str
    conversation: str
    bundle: str
    envelope: TurnEnvelope = field(compare=False)


@pytest.fixture
async def partition(valkey_url: str) -> AsyncGenerator[Partition]:
    async with a_partition(valkey_url, shares=SHARES, running_per_user=PER_USER) as partition:
        await partition.workers.beat("worker", slots=SLOTS, info={})
        yield partition


@pytest.mark.parametrize("seed", range(3))
async def test_claims_the_turns_that_the_scripts_claim(partition: Partition, seed: int) -> None:
    random_ = random.Random(seed)
    simulated = FairQueue[Turn](SHARES, running_per_user=PER_USER)
    running: list[tuple[Turn, Claim]] = []

    async def admit() -> None:
        user_type = random_.choice(list(SHARES))
        user = f"{user_type}-{random_.randrange(3)}"
        conversation = f"{user}-{random_.randrange(4)}"
        envelope = a_message(user, conversation, user_type=user_type, bundle=random_.choice(BUNDLES))
        assert isinstance(await partition.admit(envelope), Admitted)
        simulated.admit(Turn(user_type, user, conversation, envelope.bundle_id, envelope))

    async def claim(room: dict[str, int], wanted: int) -> None:
        claims = await partition.claim(wanted, room=room)
        turns = simulated.claim(room, wanted, live_slots=SLOTS)
        assert [turn.envelope.turn_id for turn in turns] == [claim.envelope.turn_id for claim in claims]
        running.extend(zip(turns, claims, strict=True))

    async def end() -> None:
        turn, claim = running.pop(random_.randrange(len(running)))
        await partition.finish(claim, TurnState.COMPLETED)
        simulated.end(turn)

    for _ in range(250):
        step = random_.random()
        if step < 0.45:
            await admit()
        elif step < 0.75:
            await claim({bundle: random_.randint(1, 3) for bundle in BUNDLES}, random_.randint(1, 4))
        elif running:
            await end()
        assert simulated.competing == await partition.queue.waiting()
    assert simulated.present > len(running) > 0
    while simulated.present:  # to the last: nothing is forgotten
        await (end() if running else claim(dict.fromkeys(BUNDLES, SLOTS), SLOTS))
