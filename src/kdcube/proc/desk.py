"""What every attempt of a worker works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kdcube.config.bundles import BundleEntry
from kdcube.postgres.turns import Turns
from kdcube.proc.bundles.pool import HostPool
from kdcube.proc.turn_figures import TurnFigures
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.queue import Queue
from kdcube.redis.steer import Steers
from kdcube.secrets.secrets import Granted
from kdcube.telemetry.instruments import Instruments
from kdcube.telemetry.tracing import NO_TRACING, Tracing


@dataclass(frozen=True, slots=True)
class BundleGrant:
    """What a registry entry gives to the turns of its bundle."""

    config: dict[str, Any]
    secrets: Granted


@dataclass(frozen=True, slots=True)
class Desk:
    """What every attempt of a worker works with."""

    worker_id: str
    turns: Turns
    queue: Queue
    logs: EventLogs
    steers: Steers
    epoch_watch: EpochWatch
    pool: HostPool
    grants: Callable[[BundleEntry], Awaitable[BundleGrant]]
    figures: TurnFigures = field(default_factory=lambda: TurnFigures(Instruments()))
    tracing: Tracing = NO_TRACING
