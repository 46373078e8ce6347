"""The versions of the gateway configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.gateway_configs import GatewayConfigs, Origin, StoredConfig, Superseded
from kdcube.protocol.errors import InvalidInput

pytestmark = pytest.mark.anyio
ROOT = Actor("root", "192.0.2.7", "request-1")
DOCUMENT = {"tenant": "t", "project": "p", "limits": {"max_queue_size": 7}}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def audit(database: Database) -> Audit:
    return Audit(database, "t", "p")


@pytest.fixture
def configs(database: Database, audit: Audit) -> GatewayConfigs:
    return GatewayConfigs(database, audit, "t", "p")


async def add(configs: GatewayConfigs, after: int, origin: Origin = "put") -> StoredConfig | Superseded:
    return await configs.add(
        after=after, document=DOCUMENT, checksum=f"sum{after}", actor=ROOT, origin=origin, reason="why"
    )


async def test_the_last_version_is_to_be_run(configs: GatewayConfigs) -> None:
    assert await configs.last() is None
    await add(configs, 0)
    second = await add(configs, 1, "reset")
    assert isinstance(second, StoredConfig)
    assert await configs.last() == second
    assert (second.version, second.document, second.checksum) == (2, DOCUMENT, "sum1")
    assert (second.author, second.origin, second.reason) == ("root", "reset", "why")
    assert await configs.get(3) is None


async def test_of_two_administrators_one_is_told(configs: GatewayConfigs, audit: Audit) -> None:
    await add(configs, 0)
    outcomes = await asyncio.gather(add(configs, 1), add(configs, 1), add(configs, 0))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StoredConfig", "Superseded", "Superseded"]
    assert [entry.subject for entry in (await audit.list()).items] == ["version 2", "version 1"]


async def test_each_version_has_its_audit_entry(configs: GatewayConfigs, audit: Audit) -> None:
    await add(configs, 0)
    (entry,) = (await audit.list()).items
    assert (entry.actor, entry.address, entry.act) == ("root", "192.0.2.7", "gateway_config.put")
    assert entry.details == {"version": 1, "checksum": "sum0", "reason": "why"}


async def test_pages_are_newest_first(configs: GatewayConfigs) -> None:
    for number in range(3):
        await add(configs, number)
    page = await configs.list(limit=2)
    assert [config.version for config in page.items] == [3, 2]
    rest = await configs.list(limit=2, cursor=page.next)
    assert ([config.version for config in rest.items], rest.next) == ([1], None)


async def test_a_tenant_has_versions_of_its_own(configs: GatewayConfigs, database: Database) -> None:
    await add(configs, 0)
    assert await GatewayConfigs(database, Audit(database, "t", "q"), "t", "q").last() is None


@pytest.mark.parametrize("cursor", ["v1.", "a1.3", "v1.x"])
async def test_refuses_foreign_cursors(configs: GatewayConfigs, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await configs.list(cursor=cursor)
