"""Brings a database's schema up to this release.

Migrations are ``migrations/NNNN_pre_name.sql`` (applied before a roll-out: the previous release works with it) and
``NNNN_post_name.sql`` (applied after it). Each is one transaction. An applied file is never edited.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import asyncpg

from kdcube.postgres.database import server_settings, translated
from kdcube.protocol.errors import KDCubeError

Phase = Literal["pre", "post"]

_FILE = re.compile(r"(\d{4})_(pre|post)_\w+\.sql")
_LOCK_KEY = 0x6B64_6375_6265  # "kdcube": one upgrade at a time
_TABLE = """
create table if not exists schema_migrations (
  name text primary key, checksum text not null, applied_at timestamptz not null default now()
)
"""


class MigrationError(KDCubeError):
    """The schema cannot be brought up to this release."""


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    """The file's name without its suffix, such as ``0001_pre_turns``."""
    phase: Phase
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The migrations of this release: by number, pre before post."""
    folder = resources.files("kdcube.postgres") / "migrations"
    return sorted_migrations((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir())


def sorted_migrations(files: Iterable[tuple[str, str]]) -> list[Migration]:
    """``files`` are (name, text). Raises MigrationError for a name that does not fit."""
    found: list[tuple[str, bool, Migration]] = []
    for name, text in files:
        match = _FILE.fullmatch(name)
        if match is None:
            raise MigrationError(f"{name}: migrations are called NNNN_pre_name.sql or NNNN_post_name.sql")
        phase: Phase = "pre" if match[2] == "pre" else "post"
        found.append((match[1], phase == "post", Migration(name.removesuffix(".sql"), phase, text)))
    return [migration for *_, migration in sorted(found, key=lambda entry: (entry[0], entry[1], entry[2].name))]


async def migrate(
    dsn: str, *, phases: tuple[Phase, ...] = ("pre", "post"), migrations: list[Migration] | None = None
) -> list[str]:
    """Applies the shipped (or given) migrations of ``phases`` that are missing; returns their names, in order.

    Concurrent upgrades wait for each other. Raises MigrationError (an applied migration was edited, or one failed;
    those before it stay applied) and StoreUnavailable.
    """
    wanted = shipped() if migrations is None else migrations
    with translated():
        connection = await asyncpg.connect(
            dsn, timeout=10, server_settings=server_settings("kdcube-migrate", statement_timeout_s=0)
        )
        try:
            await connection.execute("select pg_advisory_lock($1)", _LOCK_KEY)
            return await _apply(connection, [migration for migration in wanted if migration.phase in phases], wanted)
        finally:
            await connection.close(timeout=10)


async def _apply(connection: asyncpg.Connection, chosen: list[Migration], known: list[Migration]) -> list[str]:
    await connection.execute(_TABLE)
    applied = {
        row["name"]: row["checksum"] for row in await connection.fetch("select name, checksum from schema_migrations")
    }
    for migration in known:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(f"{migration.name} was edited after it was applied; write a new migration instead")
    done: list[str] = []
    for migration in chosen:
        if migration.name in applied:
            continue
        try:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into schema_migrations (name, checksum) values ($1, $2)", migration.name, migration.checksum
                )
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name}: {error}") from error
        done.append(migration.name)
    return done
