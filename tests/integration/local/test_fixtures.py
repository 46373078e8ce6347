"""The stores that all other tests stand on."""

from __future__ import annotations

import asyncpg
import pytest

from kdcube.local.valkey import ask

pytestmark = pytest.mark.anyio


def test_valkey_comes_back_empty_on_its_port(valkey_server, valkey_url):
    ask(valkey_server.port, "SET a 1")
    valkey_server.kill()
    valkey_server.restart()
    assert ask(valkey_server.port, "DBSIZE") == "0"


def test_valkey_is_brought_back_for_the_next_test(valkey_server):
    valkey_server.kill()


def test_valkey_was_brought_back(valkey_server, valkey_url):
    assert ask(valkey_server.port, "PING") == "PONG"


async def test_each_test_has_its_own_database(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert (await connection.fetchval("SHOW server_version")).startswith("18.")
        await connection.execute("CREATE TABLE only_here (a int)")
    finally:
        await connection.close()


async def test_nothing_of_it_is_left(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('only_here')") is None
    finally:
        await connection.close()


async def test_a_killed_postgres_comes_back_with_its_data(postgres_server, database_url):
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE kept (a int)")
    postgres_server.kill()
    connection.terminate()
    postgres_server.restart()
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    finally:
        await connection.close()
