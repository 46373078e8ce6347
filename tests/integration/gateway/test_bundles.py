"""Processes that start with what is registered, after the environment had its say, and follow it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from kdcube.config.bundles import BundleRegistry
from kdcube.config.load import load
from kdcube.config.proc import ProcSettings
from kdcube.config.service import ServiceSettings
from kdcube.gateway.bundles.adopting import adopt_bundles, registered_bundles
from kdcube.gateway.bundles.following import follow_bundles
from kdcube.gateway.bundles.live import LiveBundles, Registered
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.release_records import Release
from kdcube.postgres.releases import Releases
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import open_subscriber

pytestmark = pytest.mark.anyio
SCOPE = ("t", "p")
ROOT = Actor("root")
A, B, C = ({"path": f"/bundles/{name}"} for name in "abc")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def releases(database: Database) -> Releases:
    return Releases(database, Audit(database, *SCOPE), *SCOPE)


def service(bundles: dict[str, Any], default: str | None = None, *, force: bool = False) -> ServiceSettings:
    """Of a proc in this environment."""
    return load(
        ProcSettings,
        {
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "DATABASE_URL": "postgresql://127.0.0.1:1/x",
            "GATEWAY_CONFIG_JSON": json.dumps({"tenant": "t", "project": "p"}),
            "AGENTIC_BUNDLES_JSON": json.dumps({"default_bundle_id": default, "bundles": bundles}),
            "BUNDLES_FORCE_ENV_ON_STARTUP": str(int(force)),
            "INSTANCE_ID": "proc-7",
        },
    ).service


async def started(releases: Releases, *args: Any, **more: Any) -> Registered:
    return (await adopt_bundles(service(*args, **more), releases)).current


async def decide(releases: Releases, bundle_id: str, entry: dict[str, Any] | None, **more: Any) -> Release:
    """What an administrator does, and a proc that finds nothing wrong with it."""
    document = entry and {"id": bundle_id, **entry}
    given = {"origin": "update" if entry else "remove", "actor": ROOT, **more}
    release = await releases.want(bundle_id, entry=document, **given)
    assert isinstance(release, Release)
    if entry is not None:
        await releases.settle_ready(release, None)
    return release


def paths(registered: Registered) -> dict[str, str | None]:
    return {bundle_id: release.entry.path for bundle_id, release in registered.releases.items()}


async def test_the_environment_is_registered_once(releases: Releases) -> None:
    lives = await asyncio.gather(*(adopt_bundles(service({"a": A, "b": B}, "a"), releases) for _ in range(4)))
    assert {live.current.sequence for live in lives} == {1}
    assert paths(lives[0].current) == {"a": "/bundles/a", "b": "/bundles/b"}
    assert {release.number for release in lives[0].current.releases.values()} == {1}
    assert lives[0].current.default_bundle_id == "a"
    (first,) = (await releases.history("a")).items
    assert (first.origin, first.author, first.state) == ("environment", "system:proc-7", "ready")


async def test_the_environment_changes_what_came_from_it(releases: Releases) -> None:
    await started(releases, {"a": A, "b": B}, "a")
    now = await started(releases, {"a": {"path": "/bundles/a2"}, "c": C}, "c")
    assert paths(now) == {"a": "/bundles/a2", "c": "/bundles/c"}
    assert now.default_bundle_id == "c"
    assert (await started(releases, {"a": {"path": "/bundles/a2"}, "c": C}, "c")).sequence == now.sequence
    gone = (await releases.history("b")).items[0]
    assert (gone.entry, gone.origin, gone.number) == (None, "environment", 2)


async def test_what_an_administrator_decided_stays(releases: Releases) -> None:
    await started(releases, {"a": A, "b": B}, "a")
    await decide(releases, "a", {"path": "/bundles/mine"})
    await decide(releases, "b", None)
    await decide(releases, "c", C)
    await releases.set_default("c", ROOT)
    now = await started(releases, {"a": {"path": "/bundles/a2"}, "b": B}, "a")
    assert paths(now) == {"a": "/bundles/mine", "c": "/bundles/c"}
    assert now.default_bundle_id == "c"


async def test_looking_for_news_keeps_an_entry_the_environments(releases: Releases) -> None:
    await started(releases, {"a": A})
    await decide(releases, "a", A, origin="reload")
    assert paths(await started(releases, {"a": B})) == {"a": "/bundles/b"}


async def test_a_rollback_stays_over_a_start(releases: Releases) -> None:
    await started(releases, {"a": A})
    await started(releases, {"a": B})
    await decide(releases, "a", A, origin="rollback")
    assert paths(await started(releases, {"a": B})) == {"a": "/bundles/a"}


async def test_the_environment_can_be_imposed_by_several_at_once(releases: Releases) -> None:
    await started(releases, {"a": A, "b": B}, "a")
    await decide(releases, "a", {"path": "/bundles/mine"})
    await decide(releases, "b", None)
    await decide(releases, "c", C)
    await releases.set_default("c", ROOT)
    forced = service({"a": A, "b": B}, "b", force=True)
    lives = await asyncio.gather(*(adopt_bundles(forced, releases) for _ in range(4)))
    assert len({live.current.sequence for live in lives}) == 1
    assert paths(lives[0].current) == {"a": "/bundles/a", "b": "/bundles/b"}
    assert lives[0].current.default_bundle_id == "b"
    last = (await releases.served()).last
    assert {bundle_id: one.number for bundle_id, one in last.items()} == {"a": 3, "b": 3, "c": 2}
    assert {one.reason for one in last.values()} == {"BUNDLES_FORCE_ENV_ON_STARTUP"}


async def test_when_the_default_goes_with_the_environment_its_default_holds(releases: Releases) -> None:
    await started(releases, {"a": A, "b": B}, "a")
    await releases.set_default("b", ROOT)
    assert (await started(releases, {"a": A, "c": C}, "c")).default_bundle_id == "c"


async def test_before_anything_is_registered_the_environment_is_served(releases: Releases) -> None:
    live = await registered_bundles(service({"a": A, "b": B}, "a"), releases)
    assert (live.current.sequence, live.current.default_bundle_id, live.current.releases["a"].number) == (0, "a", 0)


async def test_an_entry_of_a_later_release_is_left_aside_and_told(releases: Releases) -> None:
    """At a start the last one that can be read is served; else the environment's."""
    await started(releases, {"a": A, "b": B}, "a")
    await decide(releases, "a", {"path": "/bundles/mine"})
    await decide(releases, "a", {"path": "/bundles/new", "of_a_later_release": 1})
    await decide(releases, "c", {"path": "/bundles/new", "of_a_later_release": 1})
    live = await adopt_bundles(service({"a": A, "b": B}, "a"), releases)
    assert paths(live.current) == {"a": "/bundles/mine", "b": "/bundles/b"}
    assert live.current.releases["a"].number == 2
    told = live.report()["bundles_problems"]
    assert "release 3 cannot be read" in told["a"] and "of_a_later_release" in told["a"]
    assert "cannot be read" in str(live.current.unready["c"])

    await decide(releases, "a", C)
    assert paths(await started(releases, {"a": A, "b": B}, "a")) == {"a": "/bundles/c", "b": "/bundles/b"}


async def test_an_environments_entry_of_a_later_release_gives_way_to_this_ones(releases: Releases) -> None:
    await decide(releases, "a", {"path": "/bundles/new", "of_a_later_release": 1}, origin="environment")
    assert paths(await started(releases, {"a": A})) == {"a": "/bundles/a"}


async def test_a_process_follows(releases: Releases, valkey_url: str) -> None:
    live = LiveBundles.of(BundleRegistry.model_validate({"bundles": {"a": A}}))
    told: asyncio.Queue[Registered] = asyncio.Queue()
    live.subscribe(told.put_nowait)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(open_connection(valkey_url, name="test"))
        subscriber = await stack.enter_async_context(open_subscriber(valkey_url, name="test"))
        following = follow_bundles(live, releases, connection, subscriber, Keys(*SCOPE), check_s=3600)
        await stack.enter_async_context(following.following())
        assert (await told.get()).sequence == 0
        wanted = await releases.want("b", entry={"id": "b", **B}, origin="add", actor=ROOT)
        assert isinstance(wanted, Release)
        assert await following.publish(1)
        now = await told.get()
        assert (now.sequence, now.releases, now.unready) == (1, {}, {"b": None})
        await releases.settle_failed(wanted, "it raises at import")
        await following.look()
        assert (await told.get()).unready == {"b": "it raises at import"}
        await decide(releases, "b", B)
        await following.look()
        now = await told.get()
        assert (paths(now), now.unready, now.default_bundle_id) == ({"b": "/bundles/b"}, {}, "b")
        assert live.registry.default_bundle_id == "b"
        await decide(releases, "b", {"path": "/x", "of_a_later_release": 1})
        await following.look()
        now = await told.get()
        assert (paths(now), now.releases["b"].number) == ({"b": "/bundles/b"}, 2)
        assert "of_a_later_release" in now.problems["b"]
