"""What Valkey and PostgreSQL hold, and what each of it is there for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import gethostname
from typing import Any

import asyncpg
from bench.soak.system import PROCS, System

from kdcube.config.sections import RedisSection
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.queue import DONE_TTL_S, LOG_TTL_S

NAME = "soak"
KEYS = Keys("bench", "main")
PREFIX = KEYS.channel_prefix.removesuffix("c:").encode()
TTL_S = {
    "done": DONE_TTL_S, "log": LOG_TTL_S, "logmeta": LOG_TTL_S, "feed": 24 * 3600, "live": 24 * 3600, "rate": 3600,
    "source": RedisSection().sse_stats_ttl_seconds, "addressrate": 3600, "opened": 120, "publiccalls": 60,
}  # fmt: skip
"""Kinds of keys of which there are many, and how long they live after their last use."""
_OF_TURNS = ("done", "log", "logmeta")
THRIFT = 15
"""What a turn leaves lives so much shorter when memory is scarce."""
FIXED = ("epoch", "server", "format", "schedule", "doorbell", "beats", "slots", "workers", "sources")
"""Kinds of which there is one key."""
WORKING = (
    "turns", "envelopes", "queue", "parked", "held", "users", "conversations", "leases", "claims",
)  # fmt: skip
"""Kinds that are empty, and so not there, when nothing is under way."""
_SCAN = 1000
_MEASURED = 100
_FOREVER = -1
_TERMINAL = ("completed", "failed", "cancelled", "interrupted", "applied")


@dataclass(frozen=True, slots=True)
class ValkeyState:
    connections: int
    """Without those of the soak itself."""
    channels: int
    keys: int
    used_memory: int
    used_memory_scripts: int
    scripts: int
    uptime_s: int


@dataclass(frozen=True, slots=True)
class PostgresState:
    connections: dict[str, int]
    """By the names of those who have them, without the soak's."""
    unfinished: int
    rows: dict[str, int]
    """By table; PostgreSQL's estimate while the load runs, exact when ``exact``."""
    size: int
    exact: bool


@dataclass(slots=True)
class KeyCount:
    """All keys of one kind."""

    count: int = 0
    bytes_each: float = 0.0
    wrong: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class KeyCensus:
    """Every key of Valkey, by kind, and whether it has reason to be there."""

    kinds: dict[str, KeyCount]
    missing_done: int
    """Turns that ended under this Valkey and of which it does not know any more."""
    overhead_bytes: int
    """Of the server's own tables and buffers, as it says."""
    took_s: float

    @property
    def wrong(self) -> list[str]:
        return [line for kind in self.kinds.values() for line in kind.wrong]

    @property
    def explained_bytes(self) -> float:
        """What the keys and the server's own tables should take, from a sample of each kind."""
        return self.overhead_bytes + sum(kind.count * kind.bytes_each for kind in self.kinds.values())


async def valkey_state(connection: Connection) -> ValkeyState | None:
    """None while it is away."""
    try:
        text: bytes = await connection.call("INFO", "server", "clients", "memory", "keyspace")
        clients: bytes = await connection.call("CLIENT", "LIST")
        channels: list[bytes] = await connection.call("PUBSUB", "CHANNELS")
        keys: int = await connection.call("DBSIZE")
    except KDCubeError:
        return None
    info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    others = [line for line in clients.decode().splitlines() if f"name={NAME} " not in line]
    return ValkeyState(
        len(others),
        len(channels),
        keys,
        int(info["used_memory"]),
        int(info["used_memory_scripts"]),
        int(info["number_of_cached_scripts"]),
        int(info["uptime_in_seconds"]),
    )


async def postgres_state(system: System, *, exact: bool = False) -> PostgresState | None:
    """None while it is away."""
    try:
        async with _postgres(system) as connection:
            by_name = await connection.fetch(
                "select application_name, count(*) from pg_stat_activity"
                " where backend_type = 'client backend' and application_name <> $1 group by 1",
                NAME,
            )
            unfinished = await connection.fetchval(
                "select count(*) from turns where state in ('queued', 'running', 'steering')"
            )
            if exact:
                tables = await _tables(connection)
                rows = {name: await connection.fetchval(f"select count(*) from {name}") for name in tables}  # noqa: S608
            else:
                found = await connection.fetch("select relname, n_live_tup from pg_stat_user_tables")
                rows = {row["relname"]: row["n_live_tup"] for row in found}
            size = await connection.fetchval("select pg_database_size(current_database())")
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    prefix = f"{gethostname()}-"
    return PostgresState({row[0].removeprefix(prefix): row[1] for row in by_name}, unfinished, rows, size, exact)


async def turns_by_id(system: System) -> dict[str, tuple[str, int, int, str]]:
    """State, accepted and ended (ms) and user of every turn. For the end, when nothing is under way."""
    async with _postgres(system) as connection:
        rows = await connection.fetch(
            "select turn_id, state, accepted_ms, coalesce(ended_ms, 0) ended, user_id from turns"
        )
    return {row["turn_id"]: (row["state"], row["accepted_ms"], row["ended"], row["user_id"]) for row in rows}


async def published_ms(system: System) -> int:
    """When the epoch was published under which Valkey works."""
    async with _postgres(system) as connection:
        return int(await connection.fetchval("select extract(epoch from max(published_at)) * 1000 from epochs"))


async def census(connection: Connection, turns: dict[str, tuple[str, int, int, str]], since_ms: int) -> KeyCensus:
    """Looks at every key; ``turns`` is what PostgreSQL stores, ``since_ms`` when this Valkey began to work."""
    began = time.monotonic()
    users = {user for *_, user in turns.values()}
    kinds: dict[str, KeyCount] = {}
    done: set[str] = set()
    cursor: Any = b"0"
    while True:
        cursor, keys = await connection.call("SCAN", cursor, "COUNT", _SCAN)
        expiries = await asyncio.gather(*(connection.call("PTTL", key) for key in keys))
        for key, ttl_ms in zip(keys, expiries, strict=True):
            kind, about = _parts(key)
            found = kinds.setdefault(kind, KeyCount())
            found.count += 1
            if kind == "done":
                done.add(about)
            wrong = wrong_key(key, ttl_ms, turns, users) or await _wrong_value(connection, key, kind)
            if wrong and len(found.wrong) < 10:
                found.wrong.append(f"{key.decode()}: {wrong}")
            if found.count <= _MEASURED:
                size = await connection.call("MEMORY", "USAGE", key, "SAMPLES", 0) or 0
                found.bytes_each += (size - found.bytes_each) / found.count
        if cursor == b"0":
            break
    now_ms = time.time() * 1000
    expected = [
        turn
        for turn, (state, accepted, ended, _) in turns.items()
        if state in _TERMINAL and accepted > since_ms and now_ms - ended < DONE_TTL_S * 1000 / THRIFT
    ]
    stats = await connection.call("MEMORY", "STATS")
    pairs = stats if isinstance(stats, dict) else dict(zip(stats[::2], stats[1::2], strict=True))
    missing = sum(turn not in done for turn in expected)
    return KeyCensus(dict(sorted(kinds.items())), missing, pairs[b"overhead.total"], time.monotonic() - began)


def wrong_key(key: bytes, ttl_ms: int, turns: dict[str, tuple[str, int, int, str]], users: set[str]) -> str | None:
    """Why a key has no reason to be there, or to be there for so long (-1: for ever), when nothing is under way."""
    if not key.startswith(PREFIX):
        return "nobody's key"
    kind, about = _parts(key)
    if kind in TTL_S:
        if ttl_ms == _FOREVER:
            return "it never expires"
        if ttl_ms > TTL_S[kind] * 1000:
            return f"it lives {ttl_ms / 1000:.0f} s more, longer than {TTL_S[kind]} s"
        if kind in _OF_TURNS and turns.get(about, ("not stored",))[0] not in _TERMINAL:
            return f"its turn is {turns.get(about, ('not stored',))[0]}"
        if kind in ("feed", "live") and about not in users:
            return "its user has sent nothing"
    elif kind in WORKING:
        return "nothing is under way"
    elif kind not in FIXED:
        return "of no known kind"
    return None


def _parts(key: bytes) -> tuple[str, str]:
    """Its kind, and the turn, user or session that it is about."""
    kind, _, about = key.removeprefix(PREFIX).decode().partition(":")
    return kind, about


async def _wrong_value(connection: Connection, key: bytes, kind: str) -> str | None:
    """What a key holds must be settled too."""
    if kind == "live" and (left := await connection.call("HLEN", key) - 2):
        return f"{left} turns that are still live"
    if kind in ("beats", "slots", "workers"):
        count = await connection.call("ZCARD" if kind == "beats" else "HLEN", key)
        return None if count == PROCS else f"{count} workers instead of {PROCS}"
    return None


@asynccontextmanager
async def _postgres(system: System) -> AsyncGenerator[Any]:
    dsn = system.dsn
    if dsn is None:
        raise OSError("PostgreSQL does not run")
    connection = await asyncpg.connect(dsn, timeout=5, command_timeout=60, server_settings={"application_name": NAME})
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def _tables(connection: Any) -> list[str]:
    return [row["relname"] for row in await connection.fetch("select relname from pg_stat_user_tables order by 1")]
