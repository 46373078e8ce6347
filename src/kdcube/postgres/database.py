"""The connection to PostgreSQL: a pool, explicit deadlines, and one translation of the driver's errors."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from kdcube.breaker import Breaker, State
from kdcube.protocol.errors import ConfigurationError, KDCubeError, StoreUnavailable

Row = asyncpg.Record
R = TypeVar("R")

STORE = "postgres"
OLDEST_SERVER = 15
ACQUIRE_S = 2.0
"""So long a call waits for a free connection; when nobody had an answer in that time, PostgreSQL hangs."""
MAX_WAITING = 1_000
"""Calls that wait so; above, they are refused at once."""
PROBE_MIN_S = 0.25
PROBE_MAX_S = 1.0
HOPE_S = 0.5
MAX_HOPING = 32
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


class _Busy(Exception):
    """PostgreSQL answers, and has no connection to spare for this one."""


class Fetch(Protocol):
    """Runs one statement in a transaction of the caller and gives its rows."""

    async def __call__(self, sql: str, *args: object) -> Sequence[Row]: ...


class Database:
    """A pool of connections. Every method raises StoreUnavailable when PostgreSQL cannot be reached, does not answer in
    time or is shutting down (the outcome of a write is then unknown), and RowRejected when it refuses the data.

    While it is known to be away (``breaker``) calls are refused at once, and it is tried again by ``keep_probing``.
    Those that wait for a connection, or for the verdict of a probe, are bounded in number and time.
    """

    def __init__(
        self, pool: asyncpg.Pool[Row], probe: Callable[[], Awaitable[None]], *, acquire_timeout_s: float = ACQUIRE_S
    ) -> None:
        self._pool = pool
        self._probe = probe
        self._acquire_timeout_s = acquire_timeout_s
        self.observe: Callable[[float], None] = _unmeasured
        """Told how long each call took (s), whatever came of it."""
        self._waiting = 0
        self._hoping = 0
        self._answers = 0
        self._there = asyncio.Event()
        self._there.set()
        self._away = asyncio.Event()
        self.breaker = Breaker(STORE, rest_s=PROBE_MIN_S, max_rest_s=PROBE_MAX_S, own_probe=True)
        self.breaker.on_change.append(self._changed)

    def pool_figures(self) -> dict[str, int]:
        """Connections that are open (``size``), of them ``idle``, at most (``max``); calls that wait for one."""
        pool = self._pool
        return {
            "size": pool.get_size(),
            "idle": pool.get_idle_size(),
            "max": pool.get_max_size(),
            "waiting": self._waiting,
        }

    async def ping(self) -> None:
        """One round trip."""
        await self.fetch("select 1")

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """One statement, which is a transaction of its own."""

        async def work(connection: Connection) -> Sequence[Row]:
            with _given_up(connection):
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
                with _given_up(connection):
                    return await work(connection.fetch)

        return await self._attempt(in_transaction)

    async def available(self) -> None:
        """Raises StoreUnavailable at once when PostgreSQL is known to be away. Asks nothing of it."""
        if not self._there.is_set():
            await self._hope()
            self.breaker.check()

    async def keep_probing(self) -> None:
        """Runs as long as the pool: tries PostgreSQL while it is away, on a connection of its own."""
        while True:
            await self._away.wait()
            began = time.monotonic()
            with contextlib.suppress(StoreUnavailable), self.breaker.probing(), translated():
                await self._probe()
            # The rest is for a server that refuses; one that hangs has had it already.
            await asyncio.sleep(max(0.0, self.breaker.retry_after_s - (time.monotonic() - began)))

    async def _attempt(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        began = time.monotonic()
        try:
            return await self._attempted(work)
        finally:
            self.observe(time.monotonic() - began)

    async def _attempted(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        if not self._there.is_set():
            await self._hope()
        for _ in range(_ATTEMPTS):
            try:
                with self.breaker.guarding(), translated():
                    # A deadline costs a task; with an idle connection there is nothing to wait for.
                    if self._pool.get_idle_size():
                        async with self._pool.acquire() as connection:
                            done = await work(connection)
                    else:
                        done = await self._in_turn(work)
                self._answers += 1
                return done
            except _Busy:
                raise StoreUnavailable(STORE, "too many wait for a connection", refused=True) from None
            except _Contention:  # the other may have been a victim as well: do not meet again
                await asyncio.sleep(random.uniform(0, _SPREAD_S))  # noqa: S311
        raise StoreUnavailable(STORE, f"deadlocked {_ATTEMPTS} times")

    async def _in_turn(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        """``work`` on the next connection that is free."""
        if self._waiting >= MAX_WAITING:
            raise _Busy
        acquiring = self._pool.acquire(timeout=self._acquire_timeout_s)
        self._waiting += 1
        answers = self._answers
        try:
            connection: Connection = await acquiring.__aenter__()
        except TimeoutError:
            if self._answers > answers:
                raise _Busy from None
            raise  # not one answer to anybody in all that time
        finally:
            self._waiting -= 1
        try:
            return await work(connection)
        finally:
            await acquiring.__aexit__(None, None, None)

    async def _hope(self) -> None:
        """A few callers wait a moment for the probe that may be about to succeed."""
        if self._hoping >= MAX_HOPING:
            return
        self._hoping += 1
        try:
            async with asyncio.timeout(HOPE_S):
                await self._there.wait()
        except TimeoutError:
            pass
        finally:
            self._hoping -= 1

    def _changed(self, state: State) -> None:
        if state is State.CLOSED:
            self._away.clear()
            self._there.set()
        else:
            self._there.clear()
            self._away.set()


def _unmeasured(_: float) -> None:
    pass


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
def _given_up(connection: Connection) -> Generator[None]:
    """A connection that did not answer in time is not asked again, not even to roll back: the caller has waited."""
    try:
        yield
    except TimeoutError:
        connection.terminate()
        raise


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
        raise StoreUnavailable(STORE, doing + _message(error)) from error


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
    acquire_timeout_s: float = ACQUIRE_S,
) -> AsyncGenerator[Database]:
    """Connects and checks the server (OLDEST_SERVER or newer, ``synchronous_commit`` on). Closes the pool at the end.

    ``name`` shows in pg_stat_activity. Raises StoreUnavailable, or ConfigurationError when the server breaks a promise.
    """

    async def probe() -> None:
        connection = await asyncpg.connect(dsn, timeout=connect_timeout_s, command_timeout=command_timeout_s)
        try:
            await connection.fetch("select 1")
        finally:
            connection.terminate()

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
        database = Database(pool, probe, acquire_timeout_s=acquire_timeout_s)
        await _check_server(database)
        probing = asyncio.create_task(database.keep_probing(), name="postgres-probing")
        try:
            yield database
        finally:
            probing.cancel()
            await asyncio.wait({probing})
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
