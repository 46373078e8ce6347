"""What the metrics service may do in Valkey: the rule of a user of its own, who reads figures and nothing else.

Nothing that people wrote is among its keys: no messages, no events, no logins. It subscribes to nothing, runs no
script, and learns nothing of the server.
"""

from __future__ import annotations

from kdcube.redis.keys import Keys

COMMANDS = (
    *("ping", "select", "time"),
    *("get", "mget", "hlen", "hmget", "zcard", "zlexcount", "zrange", "zrangebylex", "zrangebyscore"),
)
"""All that ``Sources.read``, ``read_queue_facts`` and the keeping of a connection ask."""


def readable(keys: Keys) -> tuple[str, ...]:
    """The keys, as patterns."""
    return (
        keys.sources,
        keys.source("*"),
        keys.epoch,
        keys.turns,
        keys.queue,
        keys.parked,
        keys.held,
        keys.leases,
        keys.schedule,
        keys.beats,
        keys.slots,
    )


def reading_rule(keys: Keys) -> tuple[str, ...]:
    """The arguments of ACL SETUSER behind the name and the password, in any order; they begin with nothing allowed."""
    return (
        *("resetkeys", "resetchannels", "-@all"),
        *(f"+{command}" for command in COMMANDS),
        *(f"%R~{pattern}" for pattern in readable(keys)),
    )
