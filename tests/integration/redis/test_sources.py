"""What processes say of themselves, and what is said of those that fell silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources

pytestmark = pytest.mark.anyio
KEYS = Keys("t", "p")


@pytest.fixture
async def connection(valkey_url: str) -> AsyncIterator[Connection]:
    async with open_connection(valkey_url, name="test") as connection:
        yield connection


@pytest.fixture
def sources(connection: Connection) -> Sources:
    return Sources(connection, KEYS)


async def write(sources: Sources, source: str, **report: Any) -> None:
    await sources.write(source, {"schema": 1, **report}, kept_s=60, listed_s=120)


async def test_reports_are_read_by_name(sources: Sources) -> None:
    assert await sources.read() == []
    await write(sources, "proc-1", n=2)
    await write(sources, "ingress-1", n=1)
    await write(sources, "ingress-1", n=3)
    read = await sources.read()
    assert [(one.source, one.report) for one in read] == [
        ("ingress-1", {"schema": 1, "n": 3}),
        ("proc-1", {"schema": 1, "n": 2}),
    ]
    assert all(one.age_s < 30 for one in read)


async def test_a_silent_source_stays_listed_without_figures(sources: Sources, connection: Connection) -> None:
    await write(sources, "ingress-1")
    await connection.call("PEXPIRE", KEYS.source("ingress-1"), 0)
    await connection.call("ZINCRBY", KEYS.sources, -90_000, "ingress-1")
    (silent,) = await sources.read()
    assert silent.report is None
    assert 90 <= silent.age_s < 120
    await connection.call("ZINCRBY", KEYS.sources, -90_000, "ingress-1")
    await write(sources, "proc-1")
    assert [one.source for one in await sources.read()] == ["proc-1"]


async def test_one_that_leaves_is_not_listed(sources: Sources) -> None:
    await write(sources, "ingress-1")
    await sources.leave("ingress-1")
    assert await sources.read() == []


async def test_reports_expire(sources: Sources, connection: Connection) -> None:
    await write(sources, "ingress-1")
    assert 0 < await connection.call("PTTL", KEYS.source("ingress-1")) <= 60_000


async def test_another_tenant_has_its_own(sources: Sources, connection: Connection) -> None:
    await write(sources, "ingress-1")
    assert await Sources(connection, Keys("t", "q")).read() == []
