"""The connection against a real Valkey: order, failures, and coming back."""

from __future__ import annotations

import asyncio

import pytest

from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.redis.connection import ServerError, open_blocking_connection, open_connection

pytestmark = pytest.mark.anyio


async def fails_as_unavailable(future: asyncio.Future[object], text: str) -> None:
    with pytest.raises(StoreUnavailable, match=text) as caught:
        await future
    assert caught.value.store == "valkey"


async def test_replies_reach_their_callers_in_order(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:

        async def client(n: int) -> list[bytes]:
            return [await connection.call("ECHO", f"{n}.{i}") for i in range(50)]

        answers = await asyncio.gather(*(client(n) for n in range(40)))
    assert answers == [[f"{n}.{i}".encode() for i in range(50)] for n in range(40)]


async def test_commands_run_in_the_order_of_their_calls(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        assert await asyncio.gather(*(connection.call("INCR", "n") for _ in range(100))) == list(range(1, 101))


async def test_one_tick_is_one_write(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        before = int((await connection.call("INFO", "stats")).split(b"total_reads_processed:")[1].split(b"\r")[0])
        await asyncio.gather(*(connection.call("PING") for _ in range(100)))
        after = int((await connection.call("INFO", "stats")).split(b"total_reads_processed:")[1].split(b"\r")[0])
    assert after - before == 2


async def test_argument_and_reply_types(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        await connection.call("HSET", "h", "é", b"\x00\xff", "i", 7, "f", 0.5)
        assert await connection.call("HGETALL", "h") == {"é".encode(): b"\x00\xff", b"i": b"7", b"f": b"0.5"}
        assert await connection.call("GET", "absent") is None
        with pytest.raises(TypeError):
            connection.call("SET", "k", None)  # type: ignore[arg-type]
        assert await connection.call("PING") == b"PONG"


async def test_a_payload_of_many_reads_and_writes(valkey_url):
    payload = bytes(range(256)) * 65_536  # 16 MiB
    async with open_connection(valkey_url, name="test") as connection:
        stored, small, back = await asyncio.gather(
            connection.call("SET", "big", payload), connection.call("ECHO", "x"), connection.call("GET", "big")
        )
    assert (stored, small) == (b"OK", b"x")
    assert back == payload


async def test_the_name_and_the_database_reach_the_server(valkey_url):
    async with open_connection(valkey_url.removesuffix("0") + "3", name="kdcube-test") as connection:
        info = await connection.call("CLIENT", "INFO")
        assert b" name=kdcube-test " in info
        assert b" db=3 " in info
        assert connection.hello[b"proto"] == 3


async def test_a_password_signs_in_and_a_wrong_one_is_told_without_showing_it(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        await connection.call("ACL", "SETUSER", "ann", "on", ">p@ss:/word", "~*", "+@all")
        host = valkey_url.removeprefix("redis://")
        async with open_connection(f"redis://ann:p%40ss%3A%2Fword@{host}", name="test") as ann:
            assert await ann.call("ACL", "WHOAMI") == b"ann"
        with pytest.raises(StoreUnavailable, match="WRONGPASS") as caught:
            async with open_connection(f"redis://ann:hunter2@{host}", name="test"):
                pass
        assert "hunter2" not in str(caught.value)
        await connection.call("ACL", "DELUSER", "ann")


async def test_a_first_connect_that_fails_raises():
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/0"):
        async with open_connection("redis://127.0.0.1:1/0", name="test"):
            pass


async def test_an_error_reply_is_a_server_error_with_its_code(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        await connection.call("SET", "text", "x")
        wrong, after = connection.call("LPUSH", "text", "y"), connection.call("GET", "text")
        with pytest.raises(ServerError, match="WRONGTYPE") as caught:
            await wrong
        assert caught.value.code == "WRONGTYPE"
        assert await after == b"x"


async def test_an_epoch_error_is_an_epoch_mismatch(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        with pytest.raises(EpochMismatch, match="7 is not 8"):
            await connection.call("EVAL", "return redis.error_reply('EPOCH 7 is not 8')", 0)


async def test_a_server_that_cannot_serve_is_unavailable(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        await fails_as_unavailable(connection.call("EVAL", "return redis.error_reply('LOADING data')", 0), "LOADING")
        assert connection.connected


async def test_a_replica_in_the_masters_place_is_left_and_looked_up_again(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        await fails_as_unavailable(connection.call("EVAL", "return redis.error_reply('READONLY no')", 0), "READONLY")
        assert not connection.connected
        await connection.wait_connected(5)
        assert await connection.call("PING") == b"PONG"


async def test_a_cancelled_caller_leaves_the_order_whole(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        calls = [connection.call("ECHO", f"{i}") for i in range(10)]
        for call in calls[::2]:
            call.cancel()
        assert await asyncio.gather(*calls[1::2]) == [b"1", b"3", b"5", b"7", b"9"]
        assert await connection.call("ECHO", "next") == b"next"


async def test_a_killed_server_fails_what_is_under_way_and_the_connection_comes_back(valkey_server, valkey_url):
    reconnects = asyncio.Event()
    async with open_connection(valkey_url, name="test") as connection:
        connection.on_connect.append(reconnects.set)
        valkey_server.pause()
        under_way = connection.call("PING")
        await asyncio.sleep(0)  # it is written
        valkey_server.kill()
        await fails_as_unavailable(under_way, "unknown")
        assert not connection.connected
        await fails_as_unavailable(connection.call("PING"), "connection")
        with pytest.raises(StoreUnavailable, match="within"):
            await connection.wait_connected(0.01)
        valkey_server.restart()
        await connection.wait_connected(10)
        assert reconnects.is_set()
        assert await connection.call("PING") == b"PONG"


async def test_a_missed_deadline_closes_the_socket_and_fails_all_behind_it(valkey_server, valkey_url):
    async with open_connection(valkey_url, name="test", deadline_s=0.2) as connection:
        assert await connection.call("PING") == b"PONG"
        valkey_server.pause()
        first, second = connection.call("PING"), connection.call("PING")
        await fails_as_unavailable(first, "no answer within 0.2 s")
        await fails_as_unavailable(second, "no answer within 0.2 s")
        valkey_server.resume()
        await connection.wait_connected(10)
        assert await connection.call("ECHO", "mine") == b"mine"


async def test_client_kill_is_survived(valkey_url):
    async with open_connection(valkey_url, name="a") as connection, open_connection(valkey_url, name="b") as other:
        ident = await connection.call("CLIENT", "ID")
        assert await other.call("CLIENT", "KILL", "ID", ident) == 1
        with pytest.raises(StoreUnavailable):
            while True:
                await connection.call("PING")
        await connection.wait_connected(5)
        assert await connection.call("CLIENT", "ID") != ident


async def test_too_much_under_way_is_refused_at_once(valkey_url):
    async with open_connection(valkey_url, name="test", max_in_flight=3) as connection:
        calls = [connection.call("PING") for _ in range(4)]
        assert calls[3].done()
        await fails_as_unavailable(calls[3], "3 commands are under way")
        assert await asyncio.gather(*calls[:3]) == [b"PONG"] * 3


async def test_a_server_that_reads_nothing_bounds_what_waits(valkey_server, valkey_url):
    payload = b"x" * (8 * 1024 * 1024)
    async with open_connection(valkey_url, name="test", deadline_s=60) as connection:
        valkey_server.pause()
        calls: list[asyncio.Future[object]] = []
        while not (calls and calls[-1].done()):
            calls.append(connection.call("SET", "k", payload))
            await asyncio.sleep(0)
            assert len(calls) < 20
        await fails_as_unavailable(calls.pop(), "bytes wait for the socket")
        valkey_server.resume()
        assert await asyncio.gather(*calls) == [b"OK"] * len(calls)
        assert await connection.call("PING") == b"PONG"


async def test_a_listener_that_raises_does_not_stop_the_others(valkey_url):
    called = asyncio.Event()

    def raises() -> None:
        raise ValueError

    async with open_connection(valkey_url, name="test") as connection:
        connection.on_connect.extend([raises, called.set])
        connection.drop("test")
        await asyncio.wait_for(called.wait(), 5)


async def test_closing_sends_what_waits(valkey_url):
    async with open_connection(valkey_url, name="test") as connection:
        unsent = connection.call("SET", "last", "word")
    await asyncio.wait({unsent})
    if error := unsent.exception():  # unless the server was quicker than the close
        assert isinstance(error, StoreUnavailable)
    async with open_connection(valkey_url, name="test") as connection:
        while await connection.call("GET", "last") != b"word":  # another socket may be served first
            pass


async def test_blpop_waits_gets_and_gives_up(valkey_url):
    async with (
        open_connection(valkey_url, name="test") as connection,
        open_blocking_connection(valkey_url, name="doorbell") as bell,
    ):
        assert await bell.blpop("list", 0.01) is None
        waiting = asyncio.create_task(bell.blpop("list", 10))
        await asyncio.sleep(0)
        await connection.call("RPUSH", "list", "ding")
        assert await waiting == b"ding"


async def test_a_cancelled_blpop_pops_nothing_later(valkey_url):
    async with (
        open_connection(valkey_url, name="test") as connection,
        open_blocking_connection(valkey_url, name="doorbell") as bell,
    ):
        waiting = asyncio.create_task(bell.blpop("list", 10))
        while b"cmd=blpop" not in await connection.call("CLIENT", "LIST"):
            pass
        waiting.cancel()
        await asyncio.wait({waiting})
        while b"cmd=blpop" in await connection.call("CLIENT", "LIST"):
            pass
        await connection.call("RPUSH", "list", "kept")
        await bell.wait_connected(5)
        assert await bell.blpop("list", 5) == b"kept"


async def test_redis_7_works_too(redis7_url):
    async with open_connection(redis7_url, name="test") as connection:
        assert connection.hello[b"server"] == b"redis"
        assert await asyncio.gather(*(connection.call("INCR", "n") for _ in range(5))) == [1, 2, 3, 4, 5]
