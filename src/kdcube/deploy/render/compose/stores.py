"""The stores in compose.yaml, where they are containers."""

from __future__ import annotations

from typing import Any

from kdcube.deploy.descriptor.data import PostgresContainer, ValkeyContainer
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.render.compose.secret_files import DATABASE, MOUNTED
from kdcube.deploy.render.compose.services import confined, temporary

_CHECKED = {"interval": "5s", "timeout": "3s", "retries": 6, "start_period": "10s"}
_PUBSUB = "pubsub 32mb 8mb 60"
"""Beyond it a subscriber is cut, and heals from the log."""
_DATA = "/pgdata"


def render_valkey(valkey: ValkeyContainer) -> dict[str, Any]:
    """Without a disk: it comes back empty, and is rebuilt from PostgreSQL. It never evicts. Its image runs the server
    with the arguments that it is given, as the official ones of Valkey and Redis do.
    """
    return {
        "image": valkey.image,
        "command": [
            *("--port", "6379", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/tmp"),  # noqa: S108 - its own
            *("--maxmemory", f"{valkey.memory_mb * 3 // 4}mb", "--maxmemory-policy", "noeviction"),
            *("--client-output-buffer-limit", _PUBSUB, "--latency-tracking", "no"),
            *("--aclfile", f"{MOUNTED}/valkey_users"),
        ],
        **confined(),
        "tmpfs": [temporary()],
        "mem_limit": f"{valkey.memory_mb}m",
        "pids_limit": 128,
        "stop_grace_period": "10s",
        "restart": "unless-stopped",
        "networks": ["back"],
        "secrets": ["valkey_users"],
        "healthcheck": {
            "test": ["CMD-SHELL", "(valkey-cli ping || redis-cli ping) 2>/dev/null | grep -q PONG"],
            **_CHECKED,
        },
    }


def render_postgres(postgres: PostgresContainer) -> dict[str, Any]:
    """Durable: what it has committed is on the disk. Its image begins as root, as the official one does, makes the
    database, and goes on as its own user.
    """
    return {
        "image": postgres.image,
        "command": [
            *("-c", "listen_addresses=*", "-c", "synchronous_commit=on"),
            *("-c", f"max_connections={postgres.max_connections}"),
            *("-c", f"shared_buffers={max(16, postgres.memory_mb // 4)}MB"),
        ],
        "environment": {
            "POSTGRES_USER": DATABASE,
            "POSTGRES_DB": DATABASE,
            "POSTGRES_PASSWORD_FILE": f"{MOUNTED}/postgres_password",
            "PGDATA": f"{_DATA}/data",
        },
        **confined(user=None, capabilities=("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")),
        "tmpfs": [temporary(), "/run/postgresql:mode=1777,size=16m"],
        "mem_limit": f"{postgres.memory_mb}m",
        "shm_size": "256m",
        "pids_limit": postgres.max_connections + 128,
        "stop_signal": "SIGINT",
        "stop_grace_period": "60s",
        "restart": "unless-stopped",
        "networks": ["back"],
        "volumes": [f"postgres:{_DATA}"],
        "secrets": ["postgres_password"],
        "healthcheck": {
            # Over TCP: while the database is made, the server answers on its socket alone.
            "test": ["CMD", "pg_isready", "-q", "-h", "127.0.0.1", "-U", DATABASE, "-d", DATABASE],
            **_CHECKED,
            "start_period": "60s",
        },
    }


def render_stores(descriptor: Descriptor) -> dict[str, Any]:
    """By name."""
    data, found = descriptor.data, dict[str, Any]()
    if isinstance(data.postgres, PostgresContainer):
        found["postgres"] = render_postgres(data.postgres)
    if isinstance(data.valkey, ValkeyContainer):
        found["valkey"] = render_valkey(data.valkey)
    return found
