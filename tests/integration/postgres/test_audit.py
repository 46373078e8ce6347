"""The audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, Fetch, open_database
from kdcube.protocol.errors import InvalidInput

pytestmark = pytest.mark.anyio
ROOT = Actor("root", "192.0.2.7", "request-1")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def audit(database: Database) -> Audit:
    return Audit(database, "t", "p")


async def test_an_act_is_kept_whole(audit: Audit) -> None:
    await audit.record(ROOT, "api_key.revoked", "key 7", {"name": "nightly\0"}, outcome="refused")
    (entry,) = (await audit.list()).items
    assert (entry.actor, entry.address, entry.request_id) == ("root", "192.0.2.7", "request-1")
    assert (entry.act, entry.subject, entry.outcome) == ("api_key.revoked", "key 7", "refused")
    assert entry.details == {"name": "nightly\ufffd"}
    assert entry.at_ms > 1_700_000_000_000


async def test_pages_are_newest_first_and_follow_each_other(audit: Audit) -> None:
    for number in range(5):
        await audit.record(ROOT, "a.b", str(number))
    first = await audit.list(limit=3)
    assert [entry.subject for entry in first.items] == ["4", "3", "2"]
    await audit.record(ROOT, "a.b", "later")
    second = await audit.list(limit=3, cursor=first.next)
    assert [entry.subject for entry in second.items] == ["1", "0"]
    assert second.next is None


async def test_filters_by_actor_and_act(audit: Audit) -> None:
    await audit.record(ROOT, "a.b", "1")
    await audit.record(Actor("system:proc-1"), "a.b", "2")
    await audit.record(Actor("system:proc-1"), "a.c", "3")
    assert [entry.subject for entry in (await audit.list(actor="system:proc-1")).items] == ["3", "2"]
    assert [entry.subject for entry in (await audit.list(actor="system:proc-1", act="a.b")).items] == ["2"]


async def test_a_tenant_sees_its_own(audit: Audit, database: Database) -> None:
    await audit.record(ROOT, "a.b", "1")
    assert not (await Audit(database, "t", "other").list()).items


async def test_within_a_transaction_there_is_neither_without_the_other(audit: Audit, database: Database) -> None:
    async def work(fetch: Fetch) -> None:
        await audit.record(ROOT, "a.b", "1", within=fetch)
        raise InvalidInput("x", "the act fails")

    with pytest.raises(InvalidInput):
        await database.transact(work)
    assert not (await audit.list()).items


@pytest.mark.parametrize("cursor", ["a1.", "a1.x", "c1.5", "a1.1234567890123456789"])
async def test_refuses_foreign_cursors(audit: Audit, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await audit.list(cursor=cursor)


@pytest.mark.parametrize("limit", [0, 201])
async def test_refuses_other_limits(audit: Audit, limit: int) -> None:
    with pytest.raises(InvalidInput):
        await audit.list(limit=limit)
