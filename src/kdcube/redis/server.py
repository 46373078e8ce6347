"""Facts about the Valkey server that promises depend on, and the checks at start (rule 29)."""

from __future__ import annotations

from dataclasses import dataclass

from kdcube.protocol.errors import ConfigurationError
from kdcube.redis.connection import Connection, ServerError

OLDEST = (7, 0)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """``run_id`` changes when the server restarts, when a replica takes over, and when a server that was demoted is
    promoted again: it is the server's own together with that of its replication. ``memory_share`` is 0 without a limit.
    """

    run_id: str
    version: tuple[int, int]
    eviction_policy: str
    memory_share: float


async def server_facts(connection: Connection) -> ServerFacts:
    """Asks the server. Raises StoreUnavailable."""
    text = await connection.call("INFO", "server", "memory", "replication")
    lines = (line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    info = {name: value.strip() for name, value in lines}
    version = info.get("redis_version", "0.0").split(".")
    limit = int(info.get("maxmemory", 0))
    return ServerFacts(
        f"{info['run_id']}/{info['master_replid']}",
        (int(version[0]), int(version[1])),
        info.get("maxmemory_policy", ""),
        int(info["used_memory"]) / limit if limit else 0.0,
    )


async def check_server(connection: Connection) -> ServerFacts:
    """Raises ConfigurationError when the server is too old or may evict what it is to keep."""
    try:
        facts = await server_facts(connection)
    except ServerError as error:
        raise ConfigurationError("REDIS_URL", f"the server refuses INFO: {error}") from error
    if facts.version < OLDEST:
        raise ConfigurationError(
            "REDIS_URL", f"the server is {facts.version[0]}.{facts.version[1]}; 7.0 is the oldest that works"
        )
    if facts.eviction_policy != "noeviction":
        raise ConfigurationError(
            "REDIS_URL",
            f"the server may evict keys (maxmemory-policy {facts.eviction_policy}); set maxmemory-policy to noeviction",
        )
    return facts
