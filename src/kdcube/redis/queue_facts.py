"""What the queue's structures say of themselves, by commands that only read: who may do nothing else can ask this.

The commands go out together, but other scripts may run between them: the figures are of one moment to within a round
trip or two, and each is right by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kdcube.protocol.turns import UserType
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys

HEARTBEAT_TTL_S = 15.0
PAGE = 1_000
SCANNED_MAX = 10_000
"""Turns that are looked at for the oldest one, in all classes together; behind them nobody looks."""

_SEP, _AFTER_SEP = b"\x1f", b" "
_OLDEST = 4
"""So many of each class are asked for their age: what is claimed or withdrawn meanwhile has none."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """Counts of turns, and of the workers that beat."""

    present: int
    """That wait or run."""
    running: int
    """That have a worker."""
    competing: Mapping[UserType, int]
    """That wait for a slot and for nothing else."""
    oldest_s: Mapping[UserType, float]
    """Since when the oldest of those is there; a class that has none is left out."""
    parked: int
    """Behind another turn of their conversation, steers included."""
    held: int
    """Behind the turns of their user."""
    live_workers: int
    live_slots: int
    memory_share: float
    """Of Valkey's memory budget."""
    mean_turn_s: float
    """How long turns lately took; 0 when none has ended."""

    @property
    def queued(self) -> int:
        """Turns without a worker, as admission counts them."""
        return max(0, self.present - self.running)

    def gauges(self) -> list[dict[str, Any]]:
        """As the gauges of a report (``telemetry.instruments``)."""
        plain: dict[str, float] = {
            "queue_parked": self.parked,
            "queue_held": self.held,
            "turns_queued": self.queued,
            "turns_leased": self.running,
            "live_slots": self.live_slots,
            "live_workers": self.live_workers,
            "valkey_memory_ratio": self.memory_share,
        }
        by_type: dict[str, Mapping[UserType, float]] = {
            "queue_turns": self.competing,
            "queue_oldest_seconds": self.oldest_s,
        }
        told = [_gauge(name, value) for name, value in plain.items()]
        for name, values in by_type.items():
            told += [_gauge(name, value, user_type=user_type) for user_type, value in values.items()]
        return told


def _gauge(name: str, value: float, **labels: str) -> dict[str, Any]:
    return {"name": name, "labels": labels, "value": value}


async def read_queue_facts(
    connection: Connection, keys: Keys, *, heartbeat_ttl_s: float = HEARTBEAT_TTL_S
) -> QueueFacts:
    """Raises StoreUnavailable."""
    types = list(UserType)
    (seconds, micros), present, running, parked, held, known, *competing = await asyncio.gather(
        connection.call("TIME"),
        connection.call("HLEN", keys.turns),
        connection.call("ZCARD", keys.leases),
        connection.call("ZCARD", keys.parked),
        connection.call("ZCARD", keys.held),
        connection.call("HMGET", keys.schedule, "memory", "mean_ms"),
        *(connection.call("ZLEXCOUNT", keys.queue, *_range(user_type)) for user_type in types),
    )
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    slots = await _live_slots(connection, keys, now_ms - int(heartbeat_ttl_s * 1000))
    return QueueFacts(
        present=present,
        running=running,
        competing=dict(zip(types, competing, strict=True)),
        oldest_s=await _oldest_s(connection, keys, now_ms) if any(competing) else {},
        parked=parked,
        held=held,
        live_workers=len(slots),
        live_slots=sum(slots),
        memory_share=int(known[0] or 0) / 1000,
        mean_turn_s=float(known[1] or 0) / 1000,
    )


def _range(user_type: UserType) -> tuple[bytes, bytes]:
    """The members of one class, as ``lua/_turns.lua`` makes them: class, bundle, finish tag, order, turn."""
    name = user_type.encode()
    return b"[" + name + _SEP, b"(" + name + _AFTER_SEP


async def _live_slots(connection: Connection, keys: Keys, since_ms: int) -> list[int]:
    workers: list[bytes] = await connection.call("ZRANGEBYSCORE", keys.beats, since_ms, "+inf")
    if not workers:
        return []
    return [int(slots or 0) for slots in await connection.call("HMGET", keys.slots, *workers)]


async def _oldest_s(connection: Connection, keys: Keys, now_ms: int) -> dict[UserType, float]:
    """Order is that of acceptance, and stands in the member: the records of the lowest orders tell their age."""
    lowest: dict[bytes, list[tuple[bytes, bytes]]] = {}
    after, scanned = b"-", 0
    while scanned < SCANNED_MAX:
        members: list[bytes] = await connection.call("ZRANGEBYLEX", keys.queue, after, "+", "LIMIT", 0, PAGE)
        for member in members:
            name, _, _, order, turn = member.split(_SEP, 4)
            lowest.setdefault(name, []).append((order, turn))
        lowest = {name: sorted(found)[:_OLDEST] for name, found in lowest.items()}
        scanned += len(members)
        if len(members) < PAGE:
            break
        after = b"(" + members[-1]
    if not lowest:
        return {}
    turns = [turn for found in lowest.values() for _, turn in found]
    accepted = dict(zip(turns, _accepted_ms(await connection.call("HMGET", keys.turns, *turns)), strict=True))
    ages: dict[UserType, float] = {}
    for name, found in lowest.items():
        there = [at for _, turn in found if (at := accepted[turn]) is not None]
        if there:
            ages[UserType(name.decode())] = max(0.0, now_ms - min(there)) / 1000
    return ages


def _accepted_ms(records: Iterable[bytes | None]) -> Iterable[int | None]:
    """Of turns that still wait for a slot; None for others."""
    for packed in records:
        record = {} if packed is None else msgspec.msgpack.decode(packed, type=dict[str, Any])
        yield int(record["at"]) if record.get("s") == "q" else None
