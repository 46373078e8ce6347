"""The connection to PostgreSQL: a pool, explicit deadlines, and one translation of the driver's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Database:
    """A pool of connections. Raises StoreUnavailable when PostgreSQL cannot be reached or does not answer in time."""

    async def ping(self) -> None:
        """One round trip. Raises StoreUnavailable."""
        raise NotImplementedError


@asynccontextmanager
async def open_database(dsn: str, *, min_size: int = 1, max_size: int = 4, name: str = "kdcube") -> AsyncIterator[Database]:
    """Connects and checks the server (15 or newer, ``synchronous_commit`` on). Closes the pool at the end.

    Raises StoreUnavailable, or ConfigurationError when the server's settings break a promise.
    """
    yield Database()
