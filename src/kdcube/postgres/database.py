"""The connection to PostgreSQL: a pool, explicit deadlines, and one translation of the driver's errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from kdcube.protocol.errors import ConfigurationError, KDCubeError, StoreUnavailable

Row = asyncpg.Record
R = TypeVar("R")

OLDEST_SERVER = 15
_ATTEMPTS = 4
"""How often a transaction that PostgreSQL chose as the victim of a deadlock is tried."""
_SPREAD_S = 0.05


class RowRejected(KDCubeError):
    """PostgreSQL refused a value or a row; nothing of the statement was written."""

    def __init__(self, message: str, constraint: str | None = None) -> None:
        super().__init__(message)
        self.constraint = constraint


class _Contention(Exception):
    """A deadlock or a serialization failure: rolled back, worth another attempt."""


class Fetch(Protocol):
    """Runs one statement in a transaction of the caller and gives its rows."""

    async def __call__(self, sql: str, *args: object) -> Sequence[Row]: ...


class Database:
    """A pool of connections. Every method raises StoreUnavailable when PostgreSQL cannot be reached, does not answer in
    time or is shutting down (the outcome of a write is then unknown), and RowRejected when it refuses the data.
    """

    def __init__(self, pool: asyncpg.Pool[Row], acquire_timeout_s: float) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s

    async def ping(self) -> None:
        """One round trip."""
        await self.fetch("select 1")

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """One statement, which is a transaction of its own."""

        async def work(connection: Connection) -> Sequence[Row]:
            return await connection.fetch(sql, *args)

        return await self._attempt(work)

    async def fetch_one(self, sql: str, *args: object) -> Row | None:
        """The first row of one statement."""
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def transact(self, work: Callable[[Fetch], Awaitable[R]]) -> R:
        """Runs ``work`` in one transaction (READ COMMITTED); again from its start after a deadlock."""

        async def in_transaction(connection: Connection) -> R:
            async with connection.transaction():
                return await work(connection.fetch)

        return await self._attempt(in_transaction)

    async def _attempt(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        for _ in range(_ATTEMPTS):
            try:
                with translated():
                    # A deadline costs a task; with an idle connection there is nothing to wait for.
                    timeout_s = None if self._pool.get_idle_size() else self._acquire_timeout_s
                    async with self._pool.acquire(timeout=timeout_s) as connection:
                        return await work(connection)
            except _Contention:  # the other may have been a victim as well: do not meet again
                await asyncio.sleep(random.uniform(0, _SPREAD_S))  # noqa: S311
        raise StoreUnavailable("postgres", f"deadlocked {_ATTEMPTS} times")


Connection = Any
"""asyncpg's pool hands out proxies that its stubs cannot name."""

_UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError, TimeoutError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError,
)  # fmt: skip
_REJECTED: tuple[type[BaseException], ...] = (
    asyncpg.exceptions.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError,
    asyncpg.CardinalityViolationError,
)  # fmt: skip


@contextmanager
def translated(doing: str = "") -> Generator[None]:
    """Turns the driver's errors into StoreUnavailable (``doing`` goes before the reason) and RowRejected."""
    try:
        yield
    except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
        raise _Contention from error
    except _REJECTED as error:
        raise RowRejected(_message(error), getattr(error, "constraint_name", None)) from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable("postgres", doing + _message(error)) from error


def _address(dsn: str) -> str:
    """Of the server, for people: without who signs in."""
    parts = urlsplit(dsn)
    given = dict(parse_qsl(parts.query))
    host = parts.netloc.rpartition("@")[2] or ":".join(given[part] for part in ("host", "port") if part in given)
    return f"{host or 'the local server'}, database {parts.path.strip('/') or 'of the user'}"


def _message(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@asynccontextmanager
async def open_database(
    dsn: str,
    *,
    min_size: int = 1,
    max_size: int = 4,
    name: str = "kdcube",
    command_timeout_s: float = 5.0,
    connect_timeout_s: float = 5.0,
) -> AsyncGenerator[Database]:
    """Connects and checks the server (OLDEST_SERVER or newer, ``synchronous_commit`` on). Closes the pool at the end.

    ``name`` shows in pg_stat_activity. Raises StoreUnavailable, or ConfigurationError when the server breaks a promise.
    """
    with translated(f"cannot connect to {_address(dsn)}: "):
        pool = await asyncpg.create_pool(
            dsn,
            min_size=min_size,
            max_size=max_size,
            timeout=connect_timeout_s,
            command_timeout=command_timeout_s,
            reset=_keep,
            server_settings=server_settings(name, statement_timeout_s=command_timeout_s),
        )
    try:
        database = Database(pool, connect_timeout_s)
        await _check_server(database)
        yield database
    finally:
        await _close(pool, command_timeout_s)


def server_settings(name: str, *, statement_timeout_s: float) -> dict[str, str]:
    """What each connection asks of the server: an end to abandoned work, and plans that suit short statements.

    Each statement is planned once (planning costs more than running it for one turn); a plan made while a table is
    small must not scan it when it has grown.
    """
    milliseconds = str(int(statement_timeout_s * 1000))
    return {
        "application_name": name,
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "2",
        "jit": "off",
        "enable_seqscan": "off",
        "plan_cache_mode": "force_generic_plan",
    }


async def _keep(connection: Connection) -> None:
    """Instead of asyncpg's reset, which is one more round trip: nothing here changes a session."""


async def _close(pool: asyncpg.Pool[Row], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _check_server(database: Database) -> None:
    row = await database.fetch_one(
        "select current_setting('server_version_num')::int as version, current_setting('synchronous_commit') as commit"
    )
    assert row is not None
    if row["version"] < OLDEST_SERVER * 10_000:
        raise ConfigurationError(
            "PostgreSQL", f"version {OLDEST_SERVER} or newer is needed, not {row['version'] // 10_000}"
        )
    if row["commit"] not in {"on", "remote_apply"}:
        raise ConfigurationError(
            "PostgreSQL synchronous_commit",
            f"must be on (or remote_apply): with {row['commit']} an accepted message can be lost",
        )
