"""The releases of bundles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.release_records import Crowded, Given, Plan, Release, Repeated, StoredRegistry, Superseded
from kdcube.postgres.releases import MAX_WANTED, Releases
from kdcube.protocol.errors import InvalidInput

pytestmark = pytest.mark.anyio
ROOT = Actor("root", "192.0.2.7", "request-1")
ENTRY = {"id": "a", "git_url": "https://git.test/a"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def audit(database: Database) -> Audit:
    return Audit(database, "t", "p")


@pytest.fixture
def releases(database: Database, audit: Audit) -> Releases:
    return Releases(database, audit, "t", "p")


async def want(releases: Releases, bundle_id: str = "a", **more: Any) -> Release:
    given = {"entry": {**ENTRY, "id": bundle_id}, "origin": "update", "actor": ROOT, **more}
    release = await releases.want(bundle_id, **given)
    assert isinstance(release, Release), release
    return release


async def ready(releases: Releases, bundle_id: str = "a", revision: str | None = "c0", **more: Any) -> Release:
    release = await want(releases, bundle_id, **more)
    assert await releases.settle_ready(release, revision)
    return release


async def test_what_is_wanted_is_served_when_it_is_ready(releases: Releases) -> None:
    assert await releases.served() == StoredRegistry()
    wanted = await want(releases, reason="why")
    assert (wanted.number, wanted.state, wanted.author, wanted.reason) == (1, "wanted", "root", "why")
    assert await releases.wanted() == [wanted]
    registry = await releases.served()
    assert (registry.releases, registry.last) == ({}, {"a": wanted})

    assert await releases.settle_ready(wanted, "c0ffee")
    registry = await releases.served()
    served = registry.releases["a"]
    assert (served.number, served.state, served.revision, served.entry) == (1, "ready", "c0ffee", ENTRY)
    assert served.settled_ms is not None
    assert registry.default_bundle_id == "a"  # the only one
    assert await releases.wanted() == []


async def test_what_is_settled_never_changes(releases: Releases) -> None:
    """Two procs may have prepared it: the first one's word counts."""
    wanted = await want(releases)
    assert await releases.settle_failed(wanted, "no \0 such ref")
    assert not await releases.settle_ready(wanted, "c0ffee")
    assert not await releases.settle_failed(wanted, "another reason")
    found = await releases.get("a", 1)
    assert found is not None
    assert (found.state, found.revision, found.problem) == ("failed", None, "no \ufffd such ref")


async def test_what_fails_leaves_what_is_served(releases: Releases) -> None:
    first = await ready(releases)
    second = await want(releases, entry={**ENTRY, "git_ref": "v2"})
    await releases.settle_failed(second, "no such ref")
    standing = await releases.standing("a")
    assert standing is not None and standing.served is not None
    assert (standing.last.number, standing.served.number, standing.base.number) == (2, 1, 1)
    assert (await releases.served()).releases["a"].number == first.number


async def test_a_release_that_is_ready_late_does_not_undo_a_later_one(releases: Releases) -> None:
    first, second = await want(releases), await want(releases)
    await releases.settle_ready(second, "new")
    await releases.settle_ready(first, "old")
    assert (await releases.served()).releases["a"].revision == "new"


async def test_a_removal_is_ready_at_once(releases: Releases) -> None:
    await ready(releases)
    removed = await want(releases, entry=None, origin="remove", default=None)
    assert removed.state == "ready"
    registry = await releases.served()
    assert (registry.releases, registry.default_bundle_id) == ({}, None)
    assert [one.number for one in await releases.ready_before("a", 9)] == [1]


async def test_each_change_raises_the_sequence(releases: Releases) -> None:
    seen = [await releases.sequence()]
    wanted = await want(releases)
    seen.append(await releases.sequence())
    await releases.settle_ready(wanted, None)
    seen.append(await releases.sequence())
    assert await releases.set_default("a", ROOT) is not None
    seen.append(await releases.sequence())
    assert seen == [0, 1, 2, 3]


async def test_of_two_who_build_on_the_same_release_one_is_told(releases: Releases, audit: Audit) -> None:
    first = await want(releases, after=0)
    outcomes = await asyncio.gather(
        *(releases.want("a", entry=ENTRY, origin="update", actor=ROOT, after=first.number) for _ in range(3))
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Release", "Superseded", "Superseded"]
    told = next(outcome for outcome in outcomes if isinstance(outcome, Superseded))
    assert told.last is not None and told.last.number == 2
    entries = (await audit.list()).items
    assert [(entry.act, entry.subject) for entry in entries] == [
        ("bundle.update", "a release 2"),
        ("bundle.update", "a release 1"),
    ]


async def test_a_cause_counts_once_unless_it_failed(releases: Releases) -> None:
    wanted = await want(releases, origin="webhook", cause="push")
    again = await releases.want("a", entry=ENTRY, origin="webhook", actor=ROOT, cause="push")
    assert again == Repeated(wanted)
    await releases.settle_ready(wanted, "c0")
    assert isinstance(await releases.want("a", entry=ENTRY, origin="webhook", actor=ROOT, cause="push"), Repeated)
    other = await want(releases, origin="webhook", cause="other")
    await releases.settle_failed(other, "the server was away")
    assert (await want(releases, origin="webhook", cause="other")).number == other.number + 1


async def test_what_waits_is_bounded(releases: Releases) -> None:
    for _ in range(MAX_WANTED):
        await want(releases)
    assert await releases.want("a", entry=ENTRY, origin="reload", actor=ROOT) == Crowded(MAX_WANTED)
    await want(releases, "b")
    assert (await want(releases, entry=None, origin="remove")).state == "ready"  # that must always be possible


async def test_looking_for_news_decides_nothing(releases: Releases) -> None:
    await ready(releases, origin="environment")
    await ready(releases, origin="reload", revision="c1")
    await want(releases, origin="webhook")
    await want(releases, origin="poll")
    registry = await releases.served()
    assert (registry.last["a"].number, registry.releases["a"].number, registry.decided["a"].number) == (4, 2, 1)


async def test_a_plan_is_carried_out_by_one_of_many(releases: Releases) -> None:
    def plan(found: StoredRegistry) -> Plan:
        return Plan(
            [] if found.last else [Given("a", ENTRY, ready=True), Given("b", ENTRY)], False if found.last else "a"
        )

    registries = await asyncio.gather(*(releases.adopt(plan, ROOT, None) for _ in range(4)))
    assert {registry.sequence for registry in registries} == {1}
    assert [(one.bundle_id, one.number, one.state) for one in registries[0].last.values()] == [
        ("a", 1, "ready"),
        ("b", 1, "wanted"),
    ]
    assert registries[0].default_bundle_id == "a"


async def test_the_default_is_a_bundle_that_is_served(releases: Releases) -> None:
    await want(releases)
    assert await releases.set_default("a", ROOT) is None
    await ready(releases, "b")
    sequence = await releases.sequence()
    assert await releases.set_default("b", ROOT, sequence - 1) is None
    registry = await releases.set_default("b", ROOT, sequence)
    assert registry is not None
    assert (registry.default_bundle_id, registry.default_by) == ("b", "administrator")


async def test_pages_are_newest_first(releases: Releases) -> None:
    for _ in range(3):
        await want(releases)
    await want(releases, "b")
    page = await releases.history("a", limit=2)
    assert [one.number for one in page.items] == [3, 2]
    rest = await releases.history("a", limit=2, cursor=page.next)
    assert ([one.number for one in rest.items], rest.next) == ([1], None)
    with pytest.raises(InvalidInput):
        await releases.history("a", cursor="v1.3")


async def test_a_project_has_a_registry_of_its_own(releases: Releases, database: Database) -> None:
    await ready(releases)
    other = Releases(database, Audit(database, "t", "q"), "t", "q")
    assert await other.served() == StoredRegistry()
    assert (await other.wanted(), await other.standing("a"), await other.get("a", 1)) == ([], None, None)
