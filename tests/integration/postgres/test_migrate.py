"""Migrations: once each, in order, never edited."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from kdcube.postgres.migrate import Migration, MigrationError, migrate, shipped
from kdcube.protocol.errors import StoreUnavailable

pytestmark = pytest.mark.anyio

ONE = Migration("9001_pre_one", "pre", "create table one (id int);")
CLEANUP = Migration("9001_post_cleanup", "post", "drop table one;")


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("select table_name from information_schema.tables where table_schema = 'public'")
        return {row["table_name"] for row in rows}
    finally:
        await connection.close()


async def test_a_second_time_there_is_nothing_to_do(database_url: str) -> None:
    assert await migrate(database_url) == []
    assert {"turns", "conversations", "epochs", "schema_migrations"} <= await tables(database_url)


async def test_what_is_new_is_applied_by_phase(database_url: str) -> None:
    plan = [*shipped(), ONE, CLEANUP]
    assert await migrate(database_url, phases=("pre",), migrations=plan) == [ONE.name]
    assert "one" in await tables(database_url)
    assert await migrate(database_url, migrations=plan) == [CLEANUP.name]
    assert "one" not in await tables(database_url)


async def test_an_edited_migration_is_an_error(database_url: str) -> None:
    await migrate(database_url, migrations=[ONE])
    edited = Migration(ONE.name, "pre", ONE.sql + " -- a second thought")
    with pytest.raises(MigrationError, match="edited"):
        await migrate(database_url, migrations=[edited, CLEANUP])
    assert "one" in await tables(database_url)


async def test_one_that_fails_leaves_nothing_of_itself(database_url: str) -> None:
    broken = Migration("9002_pre_broken", "pre", "create table two (id int); select 1 / 0;")
    with pytest.raises(MigrationError, match="9002_pre_broken"):
        await migrate(database_url, migrations=[ONE, broken])
    assert "two" not in await tables(database_url)
    assert await migrate(database_url, migrations=[ONE]) == []


async def test_a_newer_schema_does_not_stop_an_older_release(database_url: str) -> None:
    await migrate(database_url, migrations=[ONE])
    assert await migrate(database_url) == []


async def test_upgrades_at_once_apply_each_migration_once(database_url: str) -> None:
    done = await asyncio.gather(*(migrate(database_url, migrations=[ONE, CLEANUP]) for _ in range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 2]


async def test_no_server() -> None:
    with pytest.raises(StoreUnavailable):
        await migrate("postgresql://postgres@127.0.0.1:1/none")
