"""Leadership: at most one process at a time does a job (the reconciler, rule 16)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import asyncpg

from kdcube.postgres.database import server_settings, translated
from kdcube.protocol.errors import StoreUnavailable

SILENCE_LIMIT_S = 10.0
"""PostgreSQL takes the lock from a holder that says nothing for so long: one that is stopped keeps its connection."""


def lock_key(tenant: str, project: str, name: str) -> int:
    """The 64-bit key of an advisory lock."""
    digest = hashlib.sha256("\x1f".join((tenant, project, name)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class Leadership:
    """An advisory lock for (tenant, project, name), on a connection of its own.

    PostgreSQL frees the lock when the connection ends or is silent for ``silence_limit_s``, so a leader keeps calling
    ``try_acquire``; ``lost`` is set as soon as this side notices. Between the two another may lead already: what a
    leader writes must be safe against that. An async context manager; leaving releases.
    """

    def __init__(
        self,
        dsn: str,
        tenant: str,
        project: str,
        name: str,
        *,
        timeout_s: float = 5.0,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        self._dsn = dsn
        self._key = lock_key(tenant, project, name)
        self._name = f"kdcube-{name}"
        self._timeout_s = timeout_s
        self._silence_limit_s = silence_limit_s
        self._connection: asyncpg.Connection | None = None
        self._held = False
        self.lost = asyncio.Event()
        """Set when a lock that was held is gone, by release too; cleared by the next success."""

    @property
    def held(self) -> bool:
        return self._held

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    async def try_acquire(self) -> bool:
        """Whether this process leads now, known from a round trip: call it before each piece of a leader's work.

        Raises StoreUnavailable; the lock is then lost.
        """
        async with self._checked() as connection:
            if self._held:
                await connection.fetchval("select 1", timeout=self._timeout_s)
            elif await connection.fetchval("select pg_try_advisory_lock($1)", self._key, timeout=self._timeout_s):
                self._gained()
        return self._held

    async def release(self) -> None:
        """Gives the lock back by ending the connection. Does nothing when there is none."""
        connection = self._connection
        if connection is None:
            return
        connection.remove_termination_listener(self._terminated)
        self._gone()
        try:
            await connection.close(timeout=self._timeout_s)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()

    @asynccontextmanager
    async def _checked(self) -> AsyncGenerator[asyncpg.Connection]:
        """A live connection; any failure on it drops it, and the lock with it."""
        try:
            with translated():
                if self._connection is None:
                    settings = server_settings(self._name, statement_timeout_s=0)
                    settings["idle_session_timeout"] = str(int(self._silence_limit_s * 1000))
                    self._connection = await asyncpg.connect(
                        self._dsn, timeout=self._timeout_s, server_settings=settings
                    )
                    self._connection.add_termination_listener(self._terminated)
                yield self._connection
        except BaseException as error:
            connection = self._connection
            self._gone()
            if connection is not None:
                connection.terminate()
            if isinstance(error, RuntimeError):
                raise StoreUnavailable("postgres", str(error)) from error
            raise

    def _gained(self) -> None:
        self._held = True
        self.lost.clear()

    def _terminated(self, connection: Any) -> None:
        if connection is self._connection:
            self._gone()

    def _gone(self) -> None:
        self._connection = None
        if self._held:
            self._held = False
            self.lost.set()
