"""The pool: what is refused at the start, and what an outage looks like."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kdcube.breaker import State
from kdcube.postgres.database import Database, Fetch, RowRejected, open_database
from kdcube.protocol.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


async def test_ping(database: Database) -> None:
    await database.ping()


@pytest.mark.parametrize("mode", ["off", "local", "remote_write"])
async def test_a_server_that_may_lose_commits_is_refused(database: Database, database_url: str, mode: str) -> None:
    name = database_url.rsplit("/", 1)[1]
    await database.fetch(f"alter database {name} set synchronous_commit = {mode}")
    with pytest.raises(ConfigurationError, match="synchronous_commit"):
        async with open_database(database_url):
            pass


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreUnavailable, match="postgres"):
        async with open_database("postgresql://postgres@127.0.0.1:1/none"):
            pass


async def test_a_database_that_is_not_there(database_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist"):
        async with open_database(database_url + "_nowhere"):
            pass


async def test_data_that_is_refused_names_its_constraint(world: World) -> None:
    await world.admit("a")
    with pytest.raises(RowRejected) as caught:
        await world.database.fetch("update turns set state = 'nonsense'")
    assert caught.value.constraint == "turns_state"
    await world.database.ping()


async def test_a_statement_that_takes_too_long(database_url: str) -> None:
    async with open_database(database_url, max_size=1, command_timeout_s=0.2) as database:
        with pytest.raises(StoreUnavailable):
            await database.fetch("select pg_sleep(60)")
        await database.ping()


async def test_connections_that_the_server_ends_are_replaced(world: World, database_url: str) -> None:
    rival = await world.connect(database_url)
    blocked = asyncio.create_task(world.database.fetch("select pg_sleep(60)"))
    while not await rival.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'test' and state = 'active'"
    ):
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await blocked
    await world.database.ping()


async def test_an_outage_is_told_and_ends(world: World, postgres_server: Any) -> None:
    await world.admit("a")
    postgres_server.kill()
    with pytest.raises(StoreUnavailable):
        await world.admit("b")
    with pytest.raises(StoreUnavailable):
        await world.database.ping()
    postgres_server.restart()
    assert set(await world.turns.states(["a", "b"])) == {"a"}
    await world.admit("b")


async def test_a_server_that_hangs_is_told_in_time(database_url: str, postgres_server: Any) -> None:
    async with open_database(database_url, max_size=2, command_timeout_s=0.3, connect_timeout_s=0.3) as database:
        postmaster = psutil.Process(postgres_server.pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await database.ping()
        finally:
            for process in processes:
                process.resume()
        await database.ping()


async def test_a_deadlock_is_tried_again(world: World) -> None:
    for n in range(2):
        await world.admit(f"t{n}", f"c{n}")
    first_locks = [asyncio.Event(), asyncio.Event()]
    tries = [0, 0]

    def crossing(mine: int) -> Any:
        async def work(fetch: Fetch) -> None:
            tries[mine] += 1
            await fetch("select from turns where turn_id = $1 for update", f"t{mine}")
            first_locks[mine].set()
            await first_locks[1 - mine].wait()
            await fetch("select from turns where turn_id = $1 for update", f"t{1 - mine}")

        return work

    await asyncio.gather(world.database.transact(crossing(0)), world.database.transact(crossing(1)))
    assert max(tries) > 1


async def test_a_busy_pool_is_not_taken_for_a_server_that_is_away(database_url):
    async with open_database(database_url, max_size=1, acquire_timeout_s=1.0) as database:
        slow = [asyncio.create_task(database.fetch("select pg_sleep(0.7)")) for _ in range(8)]
        outcomes = await asyncio.gather(*slow, return_exceptions=True)
        busy = [error for error in outcomes if isinstance(error, StoreUnavailable)]
        assert len(busy) >= 5 and all(error.refused for error in busy)
        assert database.breaker.state is State.CLOSED and database.breaker.times_opened == 0
        await database.ping()


async def test_a_server_that_is_gone_is_refused_at_once_and_found_again(postgres_server, database_url):
    async with open_database(database_url) as database:
        postgres_server.kill()
        try:
            while database.breaker.state is State.CLOSED:
                with pytest.raises(StoreUnavailable):
                    await database.ping()
            with pytest.raises(StoreUnavailable) as refusal:
                await database.ping()
            assert refusal.value.refused
        finally:
            postgres_server.restart()
        closed = asyncio.Event()
        database.breaker.on_change.append(lambda state: closed.set() if state is State.CLOSED else None)
        if database.breaker.state is not State.CLOSED:
            await closed.wait()  # nobody asks: it closes by itself
        await database.ping()
