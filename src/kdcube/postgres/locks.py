"""Leadership: at most one process at a time does a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Leadership:
    """An advisory lock on a connection of its own, for a (tenant, project, name)."""

    lost: asyncio.Event

    def __init__(self, dsn: str, tenant: str, project: str, name: str) -> None: ...
    @property
    def held(self) -> bool: ...
    async def try_acquire(self) -> bool: ...
    async def release(self) -> None: ...
    @asynccontextmanager
    async def hold(self) -> AsyncIterator[asyncio.Event]:
        """Waits for the lock and gives the event that is set when it is lost."""
        yield self.lost
