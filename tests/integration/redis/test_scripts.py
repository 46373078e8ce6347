"""Scripts on a real server."""

from __future__ import annotations

import asyncio

import pytest

from kdcube.protocol.errors import EpochMismatch
from kdcube.redis.connection import ServerError, open_connection
from kdcube.redis.scripts import Script

pytestmark = pytest.mark.anyio


@pytest.fixture
def script(tmp_path):
    (tmp_path / "_shared.lua").write_text("local function twice(x) return x * 2 end\n")
    (tmp_path / "add.lua").write_text(
        "-- include: shared\nif ARGV[1] == '0' then return redis.error_reply('EPOCH 0') end\n"
        "return {redis.call('INCRBY', KEYS[1], twice(ARGV[1])), ARGV[2]}\n"
    )
    return Script("add", folder=tmp_path)


async def test_a_script_survives_the_loss_of_the_servers_cache(valkey_url, script):
    async with open_connection(valkey_url, name="test") as connection:
        await connection.call("SCRIPT", "FLUSH")
        assert await script(connection, ["n"], [1, b"\xff"]) == [2, b"\xff"]
        assert await connection.call("SCRIPT", "EXISTS", script.sha) == [1]
        await connection.call("SCRIPT", "FLUSH")
        answers = await asyncio.gather(*(script(connection, [b"n"], [1, "x"]) for _ in range(20)))
        assert sorted(number for number, _ in answers) == list(range(4, 44, 2))


async def test_errors_of_a_script_keep_their_kind(valkey_url, script):
    async with open_connection(valkey_url, name="test") as connection:
        with pytest.raises(EpochMismatch):
            await script(connection, ["n"], [0, ""])
        with pytest.raises(ServerError) as caught:
            await script(connection, ["n"], ["x", ""])
        assert caught.value.code == "ERR"
