"""Token buckets that all processes share."""

from __future__ import annotations

from kdcube.redis.connection import Connection
from kdcube.redis.scripts import Script

_TAKE = Script("take_token")


async def take_token(connection: Connection, key: str, *, burst: float, per_s: float) -> float:
    """0 when a token was in the bucket ``key``, which holds ``burst`` and gains ``per_s`` a second, by Valkey's clock;
    else the seconds until there is one, and nothing was changed. Raises StoreUnavailable.
    """
    return await _TAKE(connection, [key], [burst, per_s]) / 1000
