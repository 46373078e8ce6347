"""Messages over time: an inhomogeneous Poisson process by thinning (Lewis and Shedler, 1979)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kdcube.capacity.scenario import Scenario, Senders, rate_at
from kdcube.protocol.turns import UserType


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message, ``at_s`` after the beginning."""

    at_s: float
    user_type: UserType
    user: str
    conversation: str
    bundle: str


def arrivals(scenario: Scenario, random_: random.Random) -> Sequence[Arrival]:
    """All of them, in order."""
    sent = [
        arrival
        for number, senders in enumerate(scenario.senders)
        for arrival in _of(senders, number, scenario.duration_s, random_)
    ]
    return sorted(sent, key=lambda arrival: arrival.at_s)


def _of(senders: Senders, number: int, duration_s: float, random_: random.Random) -> Sequence[Arrival]:
    most = max(rate for _, rate in senders.turns_per_s)
    conversations: dict[int, int] = {}
    sent: list[Arrival] = []
    now = 0.0
    while most > 0:
        now += random_.expovariate(most)
        if now >= duration_s:
            break
        if random_.random() * most >= rate_at(senders.turns_per_s, now):
            continue
        user = random_.randrange(senders.users)
        if user not in conversations or random_.random() >= senders.same_conversation:
            conversations[user] = conversations.get(user, 0) + 1
        name = f"{senders.user_type}-{number}-{user}"
        conversation = f"{name}-{conversations[user]}"
        sent.append(Arrival(now, senders.user_type, name, conversation, senders.bundle))
    return sent
