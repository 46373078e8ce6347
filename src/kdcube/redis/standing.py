"""How full the system is, as admission sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kdcube.protocol.turns import UserType
from kdcube.redis.admission import AdmissionLimits
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_STANDING = Script("standing")


@dataclass(frozen=True, slots=True)
class Standing:
    """``present`` turns count against ``capacity``; a class is refused beyond its entry of ``admitted_to``."""

    live_slots: int
    present: int
    running: int
    """Of those present: turns that have a worker."""
    competing: Mapping[UserType, int]
    """Turns that wait for a slot and for nothing else."""
    capacity: float
    pressure: float
    admitted_to: Mapping[UserType, int]
    memory_share: float
    mean_turn_s: float


async def read_standing(connection: Connection, keys: Keys, limits: AdmissionLimits) -> Standing:
    """Raises StoreUnavailable."""
    types = list(UserType)
    slots, present, running, memory, mean_ms, *competing = await _STANDING(
        connection, keys.state(), [int(limits.heartbeat_ttl_s * 1000), *types]
    )
    capacity = max(slots * (1 - limits.capacity_buffer) * limits.queue_depth_multiplier, 1.0)
    shares = {
        name: min(of_class.pressure_threshold, limits.hard_limit_threshold) for name, of_class in limits.classes.items()
    }
    return Standing(
        live_slots=slots,
        present=present,
        running=running,
        competing=dict(zip(types, competing, strict=True)),
        capacity=capacity,
        pressure=present / capacity,
        admitted_to={name: max(math.floor(capacity * share + 1e-9), 1) for name, share in shares.items()},
        memory_share=memory / 1000,
        mean_turn_s=mean_ms / 1000,
    )
