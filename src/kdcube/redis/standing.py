"""How full the system is, as admission sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kdcube.protocol.turns import UserType
from kdcube.redis.admission import AdmissionLimits
from kdcube.redis.queue_facts import QueueFacts


@dataclass(frozen=True, slots=True)
class Standing:
    """A class is refused while more turns than its entry of ``admitted_to`` are present, of ``capacity``."""

    capacity: float
    pressure: float
    admitted_to: Mapping[UserType, int]


def standing_of(facts: QueueFacts, limits: AdmissionLimits) -> Standing:
    """By the formula of ``lua/admit.lua``."""
    capacity = max(facts.live_slots * (1 - limits.capacity_buffer) * limits.queue_depth_multiplier, 1.0)
    shares = {
        name: min(of_class.pressure_threshold, limits.hard_limit_threshold) for name, of_class in limits.classes.items()
    }
    return Standing(
        capacity=capacity,
        pressure=facts.present / capacity,
        admitted_to={name: max(math.floor(capacity * share + 1e-9), 1) for name, share in shares.items()},
    )
