"""Leadership: one at a time, and it is known when it is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kdcube.postgres.locks import Leadership
from kdcube.protocol.errors import StoreUnavailable

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


def leadership(dsn: str, name: str = "reconciler", project: str = "p") -> Leadership:
    return Leadership(dsn, "t", project, name)


async def test_one_leads_and_the_next_after_it(database_url: str) -> None:
    async with leadership(database_url) as first, leadership(database_url) as second:
        assert await first.try_acquire()
        assert await first.try_acquire()
        assert not await second.try_acquire()
        assert (first.held, second.held) == (True, False)
        await first.release()
        assert not first.held
        assert first.lost.is_set()
        assert await second.try_acquire()


async def test_projects_and_names_do_not_meet(database_url: str) -> None:
    async with (
        leadership(database_url) as first,
        leadership(database_url, "other") as second,
        leadership(database_url, project="q") as third,
    ):
        assert [await each.try_acquire() for each in (first, second, third)] == [True] * 3


async def test_a_holder_that_says_nothing_loses_the_lock(database_url: str) -> None:
    """As a process does that is stopped, and whose connection stays."""
    async with (
        Leadership(database_url, "t", "p", "reconciler", silence_limit_s=0.1) as silent,
        leadership(database_url) as second,
    ):
        assert await silent.try_acquire()
        await silent.lost.wait()
        assert await second.try_acquire()
        assert not await silent.try_acquire()


async def test_a_lost_connection_is_noticed_and_another_leads(world: World, database_url: str) -> None:
    async with leadership(database_url) as first, leadership(database_url) as second:
        await first.try_acquire()
        await world.database.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'kdcube-reconciler'"
        )
        await first.lost.wait()
        assert not first.held
        assert await second.try_acquire()
        assert not await first.try_acquire()
        await second.release()
        assert await first.try_acquire()
        assert not first.lost.is_set()


async def test_a_leader_without_a_server() -> None:
    async with leadership("postgresql://postgres@127.0.0.1:1/none") as nobody:
        with pytest.raises(StoreUnavailable):
            await nobody.try_acquire()
