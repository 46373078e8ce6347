"""Releases that are wanted, on the proc that leads: prepared, settled once, and run by all procs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.eventually import eventually
from tests.integration.proc.bundles.git_servers import Remote, http_server
from tests.integration.proc.conftest import ECHO, KEYS, Client, Deployment

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.bundles.entries import document_of
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.release_records import Origin, Release
from kdcube.postgres.releases import Releases
from kdcube.proc import polling, preparing
from kdcube.proc.main import Proc
from kdcube.proc.polling import is_news
from kdcube.protocol.turns import Policy, TurnState

pytestmark = pytest.mark.anyio

ID = "live@1"
CODE = """
from kdcube.sdk import Bundle
bundle = Bundle("live@1")

@bundle.on_message
async def answer(turn):
    await turn.delta("NAME")
"""
ADA = Actor("ada")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote.make(tmp_path / "remote")


@pytest.fixture
def releases(client: Client) -> Releases:
    return Releases(client.database, Audit(client.database, "local", "main"), "local", "main")


class Registry:
    """What an administrator asks for, and what becomes of it."""

    def __init__(self, releases: Releases, client: Client) -> None:
        self.releases = releases
        self.client = client

    async def want(self, entry: BundleEntry | None, origin: Origin = "reload", revision: str | None = None) -> Release:
        document = None if entry is None else document_of(entry)
        wanted = await self.releases.want(ID, entry=document, revision=revision, origin=origin, actor=ADA)
        assert isinstance(wanted, Release)
        await self.client.connection.call("PUBLISH", KEYS.bundles_channel, "")
        return wanted

    async def settled(self, release: Release) -> Release:
        async with self.client.changes(KEYS.bundles_channel) as changed:
            while True:
                changed.clear()
                found = await self.releases.get(ID, release.number)
                assert found is not None
                if found.state != "wanted":
                    return found
                await changed.wait()


@pytest.fixture
def registry(releases: Releases, client: Client) -> Registry:
    return Registry(releases, client)


@asynccontextmanager
async def running(deployment: Deployment) -> AsyncGenerator[Proc]:
    async with deployment.proc() as proc:
        await proc.probes.epoch_watch.wait_for()
        yield proc


async def runs(proc: Proc, number: int) -> None:
    await until(lambda: any(bundle.id == ID and bundle.release == number for bundle in proc.pool.status()))


async def until(condition: Callable[[], bool]) -> None:
    """Of what this proc tells nobody of."""

    async def holds() -> bool:
        return condition()

    await eventually(holds, "the condition holds")


async def answer(client: Client) -> tuple[str, str | None]:
    turn = await client.ended((await client.send("hello", bundle=ID)).turn_id)
    assert turn.state is TurnState.COMPLETED
    return turn.answer, turn.bundle_version


def code(name: str) -> dict[str, str]:
    return {"bundle.py": CODE.replace("NAME", name)}


async def test_releases_from_git_one_after_the_other(deployment, client, registry, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        entry = BundleEntry(id=ID, git_url=server.url)
        async with running(deployment) as proc:
            added = await registry.settled(await registry.want(entry, "add"))
            assert (added.state, added.revision) == ("ready", first)
            await runs(proc, added.number)
            assert await answer(client) == ("first", first[:12])

            broken = remote.commit({"bundle.py": "def broken(:\n"})
            failed = await registry.settled(await registry.want(entry))
            assert (failed.state, failed.revision) == ("failed", None)
            assert "SyntaxError" in (failed.problem or "")
            assert await answer(client) == ("first", first[:12]), broken

            third = remote.commit(code("third"))
            reloaded = await registry.settled(await registry.want(entry))
            await runs(proc, reloaded.number)
            assert await answer(client) == ("third", third[:12])
            back = await registry.settled(await registry.want(entry, "rollback", first))
            await runs(proc, back.number)
            assert (back.revision, await answer(client)) == (first, ("first", first[:12]))

            remote.bare.rename(remote.bare.with_name("away"))
            away = await registry.settled(await registry.want(entry))
            assert (away.state, "git on http" in (away.problem or "")) == ("failed", True)
            assert await answer(client) == ("first", first[:12])
            unreadable = await registry.releases.want(ID, entry={"path": 7}, origin="update", actor=ADA)
            assert isinstance(unreadable, Release)
            assert "path" in ((await registry.settled(unreadable)).problem or "")


async def test_limits_of_a_release_hold_for_the_turns_that_begin_under_it(deployment, client, registry, tmp_path):
    (tmp_path / "live").mkdir()
    held = CODE.replace('"NAME")', '"begun")\n    if turn.text == "wait":\n        await turn.inbox.get()')
    (tmp_path / "live" / "bundle.py").write_text(held)
    entry = BundleEntry(id=ID, path=str(tmp_path / "live"))
    async with running(deployment) as proc:
        await runs(proc, (await registry.settled(await registry.want(entry, "add"))).number)
        before = await client.send("wait", bundle=ID, conversation="before")
        await client.until(before.turn_id, 2)
        limited = entry.model_copy(update={"wall_limit_s": 0.1, "idle_limit_s": 0.1})
        await runs(proc, (await registry.settled(await registry.want(limited, "update"))).number)
        ended = await client.ended((await client.send("wait", bundle=ID)).turn_id)
        assert (ended.state, ended.error and ended.error["code"]) == (TurnState.INTERRUPTED, "wall_limit")
        await client.send("go on", bundle=ID, conversation="before", policy=Policy.STEER)
        assert (await client.ended(before.turn_id)).state is TurnState.COMPLETED


async def test_what_the_environment_names_is_prepared_in_the_background_and_tried_again(
    deployment, client, registry, remote, monkeypatch
):
    monkeypatch.setattr(preparing, "RETRY_S", 0.1)
    first = remote.commit(code("first"))
    away = remote.bare.rename(remote.bare.with_name("away"))
    with http_server(remote.bare.parent) as server:
        entry = BundleEntry(id=ID, git_url=server.url)
        named = f'{{"bundles": {{"echo@1.0.0": {{"path": "{ECHO}"}}, "{ID}": {{"git_url": "{server.url}"}}}}}}'
        async with deployment.proc(AGENTIC_BUNDLES_JSON=named) as proc:
            await proc.probes.epoch_watch.wait_for()
            await until(lambda: ID in proc.preparing.problems)
            assert proc.probes.health()["preparing"] == proc.preparing.problems
            away.rename(remote.bare)
            await runs(proc, 1)
            assert (await answer(client), proc.preparing.problems) == (("first", first[:12]), {})
        assert entry.fetched


async def test_a_turn_that_waits_for_a_removed_bundle_fails_and_one_that_runs_finishes(
    deployment, client, registry, remote
):
    held = CODE.replace('"NAME")', '"NAME")\n    if turn.text == "wait":\n        await turn.inbox.get()')
    remote.commit({"bundle.py": held})
    with http_server(remote.bare.parent) as server:
        async with running(deployment) as proc:
            added = await registry.settled(await registry.want(BundleEntry(id=ID, git_url=server.url), "add"))
            await runs(proc, added.number)
            conversation = "of-both"
            turn = await client.send("wait", bundle=ID, conversation=conversation)
            await client.until(turn.turn_id, 2)
            behind = await client.send("behind", bundle=ID, conversation=conversation)
            await registry.want(None, "remove")
            await until(lambda: ID not in proc.bundles.current.known)
            await client.send("go on", bundle=ID, conversation=conversation, policy=Policy.STEER)
            assert (await client.ended(turn.turn_id)).state is TurnState.COMPLETED
            await client.database.fetch("update turns set queued_ms = queued_ms - 60_000 where state = 'queued'")
            ended = await client.ended(behind.turn_id)
            assert (ended.state, (ended.error or {})["code"]) == (TurnState.FAILED, "bundle_unavailable")


async def test_a_new_commit_is_found_by_looking(deployment, client, registry, remote, monkeypatch):
    monkeypatch.setattr(polling, "LOOK_EVERY_S", 0.05)
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        entry = BundleEntry(id=ID, git_url=server.url, git_poll_s=10)
        async with running(deployment) as proc:
            hours = iter(range(0, 10**9, 3600))
            monkeypatch.setattr(proc.polling, "_clock", lambda: next(hours))
            await runs(proc, (await registry.settled(await registry.want(entry, "add"))).number)
            second = remote.commit(code("second"))
            await runs(proc, 2)
            assert await answer(client) == ("second", second[:12])
            await runs(proc, (await registry.settled(await registry.want(entry, "rollback", first))).number)
            third = remote.commit(code("third"))
            await runs(proc, 4)
            assert await answer(client) == ("third", third[:12])
        (newest, back, polled, _) = (await registry.releases.history(ID)).items
        assert (newest.origin, back.origin, polled.origin) == ("poll", "rollback", "poll")
        assert (newest.revision, back.revision, polled.revision) == (third, first, second)


def release(number: int, revision: str | None, origin: Origin, state: str = "ready") -> Release:
    return Release(ID, number, {}, revision, state, origin, "ada", None, None, 0, 0)  # type: ignore[arg-type]


def test_what_is_news():
    added, polled = release(1, "a", "add"), release(2, "b", "poll")
    assert not is_news("a", [])
    assert not is_news("a", [added])
    assert is_news("b", [added])
    assert not is_news("b", [release(2, "b", "poll", "wanted"), added])
    assert not is_news("b", [release(2, "b", "poll", "failed"), added])
    assert is_news("c", [release(2, "b", "poll", "failed"), added])
    assert not is_news("b", [release(3, "a", "rollback"), polled, added])
    assert is_news("c", [release(3, "a", "rollback"), polled, added])
    assert is_news("a", [polled, added])
