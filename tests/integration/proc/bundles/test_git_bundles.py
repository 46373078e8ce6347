"""Bundles from git under a pool: resolved, tried out, activated, and served when their server is away."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from tests.integration.proc.bundles.conftest import Hosts, echo_as, job
from tests.integration.proc.bundles.git_servers import Remote, http_server

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitSettings
from kdcube.proc.bundles.host import BundleLoadError
from kdcube.proc.bundles.jobs import Completed
from kdcube.proc.bundles.launching import Prepared
from kdcube.proc.bundles.pool import open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.sources.checkout import remove_checkout
from kdcube.proc.bundles.sources.git_source import open_git_store

pytestmark = pytest.mark.anyio

CODE = """
from kdcube.sdk import Bundle
bundle = Bundle("test@1")

@bundle.on_message
async def answer(turn):
    await turn.delta("NAME")
    if turn.text == "wait":
        await turn.inbox.get()
        await turn.delta(" NAME")
"""
BROKEN = {"agents/one/bundle.py": "def broken(:\n"}


def code(name: str) -> dict[str, str]:
    return {"agents/one/bundle.py": CODE.replace("NAME", name)}


def entry(url: str, **fields) -> BundleEntry:
    return BundleEntry(id="test@1", git_url=url, git_subdir="agents/one", **fields)


class GitHosts(Hosts):
    """``release`` is what a registry that is followed does."""

    number = 0

    def release(self, entry: BundleEntry, revision: str | None) -> None:
        self.number += 1
        echo = self.pool.folders().get("echo@1")
        releases = {"test@1": BundleRelease(self.number, entry, revision)}
        self.pool.apply(releases | ({"echo@1": BundleRelease(1, echo)} if echo else {}), "test@1")

    async def released(self, entry: BundleEntry, revision: str | None) -> None:
        self.release(entry, revision)
        number = self.number
        await self.until(lambda: self.status.release == number)

    @property
    def status(self):
        return next(status for status in self.pool.status() if status.id == "test@1")

    async def answer(self) -> tuple[str, str]:
        run, outcome = await self.outcome(job())
        assert outcome == Completed()
        return run.answer, run.running.bundle_version


@pytest.fixture
def remote(tmp_path):
    return Remote.make(tmp_path)


@pytest.fixture
def open_git(tmp_path):
    """``async with open_git() as hosts``: the echo bundle ``echo@1`` from a folder, and what is released."""

    @asynccontextmanager
    async def open_(**settings):
        echo = BundleEntry(id="echo@1", path=echo_as("echo@1", tmp_path))
        changed = asyncio.Event()
        with open_git_store(tmp_path / "git", GitSettings(**settings)) as git:
            async with open_host_pool(
                {"echo@1": BundleRelease(1, echo)},
                needed=["echo@1"],
                slots=8,
                run_dir=tmp_path / "run",
                clock=time.monotonic,
                on_change=changed.set,
                git=git,
            ) as pool:
                yield GitHosts(pool, changed)

    return open_


async def test_a_release_is_tried_out_and_activated_and_turns_finish_on_theirs(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        async with open_git() as hosts:
            assert await hosts.pool.try_out(entry(server.url), None) == Prepared(first, first[:12])
            assert "test@1" not in hosts.pool.room()
            await hosts.released(entry(server.url), first)
            assert await hosts.answer() == ("first", first[:12])
            waiting = await hosts.start(job("wait"))
            await waiting.until_answer("first")

            second = remote.commit(code("second"))
            assert await hosts.pool.try_out(entry(server.url), None) == Prepared(second, second[:12])
            assert await hosts.answer() == ("first", first[:12])
            await hosts.released(entry(server.url), second)
            assert await hosts.answer() == ("second", second[:12])
            await hosts.released(entry(server.url), second)  # nothing new: its host stays
            assert len(hosts.pids()) == 2
            waiting.running.cancel("done")
            await waiting.outcome
            await hosts.until(lambda: len(hosts.pids()) == 1)
            assert hosts.status.problem is None


async def test_what_was_fetched_needs_no_server_also_after_a_start_and_when_its_checkout_was_collected(
    open_git, remote, tmp_path
):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        url = server.url
        async with open_git() as hosts:
            await hosts.released(entry(url), first)
            second = remote.commit(code("second"))
            await hosts.released(entry(url), second)
    async with open_git() as hosts:
        await hosts.released(entry(url), second)
        (checkout,) = (tmp_path / "git").glob(f"*/commits/{first}")
        remove_checkout(checkout)
        assert await hosts.answer() == ("second", second[:12])
        with pytest.raises(BundleLoadError, match=r"git on http://127.0.0.1"):
            await hosts.pool.try_out(entry(url), None)
        await hosts.released(entry(url), first)
        assert await hosts.answer() == ("first", first[:12])


async def test_going_back_when_the_branch_was_rewritten(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        async with open_git() as hosts:
            await hosts.released(entry(server.url), first)
            await hosts.pool.try_out(entry(server.url), None)
            remote.rewrite()
            second = remote.commit(code("second"))
            assert (await hosts.pool.try_out(entry(server.url), None)).revision == second
            await hosts.released(entry(server.url), second)
            remote.gone(first)
            await hosts.released(entry(server.url), first)
            assert await hosts.answer() == ("first", first[:12])


async def test_what_does_not_load_is_told_and_the_version_before_goes_on(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        async with open_git() as hosts:
            await hosts.released(entry(server.url), first)
            broken = remote.commit(BROKEN)
            with pytest.raises(BundleLoadError, match="SyntaxError"):
                await hosts.pool.try_out(entry(server.url), None)
            hosts.release(entry(server.url), broken)  # as where it loads on the leader, and not here
            await hosts.until(lambda: "SyntaxError" in (hosts.status.problem or ""))
            assert (hosts.status.release, hosts.status.unavailable) == (1, None)
            assert await hosts.answer() == ("first", first[:12])
            third = remote.commit(code("third"))
            await hosts.released(entry(server.url), third)
            assert (await hosts.answer(), hosts.status.problem) == (("third", third[:12]), None)


async def test_a_server_that_hangs_keeps_neither_another_bundle_nor_another_release_waiting(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        async with open_git(timeout_s=60) as hosts:
            await hosts.released(entry(server.url), first)
            second = remote.commit(code("second"))
            server.away.set()
            hosts.release(entry(server.url), second)
            await asyncio.to_thread(server.came.wait)
            _, outcome = await hosts.outcome(job("hello", bundle_id="echo@1", echo={"deltas": 2}))
            assert (outcome, await hosts.answer()) == (Completed(), ("first", first[:12]))
            await hosts.released(entry(server.url, config={"a": 1}), first)  # given up: it is not wanted any more
            server.away.clear()
            server.back.set()


async def test_a_pool_closes_while_something_is_fetched(open_git, remote):
    commit = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        server.away.set()
        async with open_git(timeout_s=60) as hosts:
            hosts.release(entry(server.url), commit)
            await asyncio.to_thread(server.came.wait)
            assert hosts.status.unavailable == "its code is being fetched"


async def test_what_cannot_be_fetched_says_why(open_git, remote):
    commit = remote.commit({"bundle.py": "no folder of this name"})
    with http_server(remote.bare.parent) as server:
        async with open_git() as hosts:
            hosts.release(entry(server.url), commit)
            await hosts.until(lambda: "has no folder 'agents/one' (git_subdir)" in hosts.status.unavailable)
            with pytest.raises(BundleLoadError, match="has no branch, tag or commit 'absent'"):
                await hosts.pool.try_out(entry(server.url, git_ref="absent"), None)
            with pytest.raises(BundleLoadError, match="KDCUBE_GIT_ALLOW_FILE"):
                await hosts.pool.try_out(entry(f"file://{remote.bare}"), None)
