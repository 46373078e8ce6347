"""Bundles from git under a pool: fetched, pinned, reloaded, and served when their server is away."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from tests.integration.proc.bundles.conftest import Hosts, echo_as, job
from tests.integration.proc.bundles.git_servers import Remote, http_server

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.config.git import GitSettings
from kdcube.proc.bundles.host import BundleLoadError
from kdcube.proc.bundles.jobs import Completed
from kdcube.proc.bundles.pool import open_host_pool
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


def code(name: str) -> dict[str, str]:
    return {"agents/one/bundle.py": CODE.replace("NAME", name)}


@pytest.fixture
def remote(tmp_path):
    return Remote.make(tmp_path)


@pytest.fixture
def open_git(tmp_path):
    """``async with open_git(url, ref) as hosts``: ``test@1`` from git, and the echo bundle ``echo@1`` from a folder."""

    @asynccontextmanager
    async def open_(url: str, ref: str | None = None, **settings):
        entry = BundleEntry(id="test@1", git_url=url, git_ref=ref, git_subdir="agents/one")
        echo = BundleEntry(id="echo@1", path=echo_as("echo@1", tmp_path))
        registry = BundleRegistry(bundles={"test@1": entry, "echo@1": echo})
        changed = asyncio.Event()
        with open_git_store(tmp_path / "git", GitSettings(**settings)) as git:
            async with open_host_pool(
                registry, slots=8, run_dir=tmp_path / "run", clock=time.monotonic, on_change=changed.set, git=git
            ) as pool:
                yield Hosts(pool, changed)

    return open_


def unavailable(hosts: Hosts) -> str:
    return next(status.unavailable for status in hosts.pool.status() if status.id == "test@1") or ""


async def answer(hosts: Hosts) -> tuple[str, str]:
    run, outcome = await hosts.outcome(job())
    assert outcome == Completed()
    return run.answer, run.running.bundle_version


async def test_it_is_fetched_at_start_and_on_reload_and_turns_finish_on_theirs(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        async with open_git(server.url) as hosts:
            await hosts.until(lambda: "test@1" in hosts.pool.room())
            assert await answer(hosts) == ("first", first[:12])
            waiting = await hosts.start(job("wait"))
            await waiting.until_answer("first")

            second = remote.commit(code("second"))
            assert await answer(hosts) == ("first", first[:12])
            assert await hosts.pool.reload("test@1") == second[:12] == hosts.pool.version("test@1")
            assert await answer(hosts) == ("second", second[:12])
            assert (await hosts.pool.reload("test@1"), len(hosts.pids())) == (second[:12], 2)
            waiting.running.cancel("done")
            await waiting.outcome
            await hosts.until(lambda: len(hosts.pids()) == 1)


async def test_a_pinned_commit_stays_what_it_is(open_git, remote):
    first = remote.commit(code("first"))
    remote.commit(code("second"))
    with http_server(remote.bare.parent) as server:
        async with open_git(server.url, first[:10]) as hosts:
            await hosts.until(lambda: "test@1" in hosts.pool.room())
            assert await answer(hosts) == ("first", first[:12])


async def test_when_the_server_is_away_what_was_served_goes_on_also_after_a_start(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        url = server.url
        async with open_git(url) as hosts:
            await hosts.until(lambda: "test@1" in hosts.pool.room())
    async with open_git(url) as hosts:
        await hosts.until(lambda: "test@1" in hosts.pool.room())
        assert await answer(hosts) == ("first", first[:12])
        with pytest.raises(BundleLoadError, match=r"git on http://127.0.0.1"):
            await hosts.pool.reload("test@1")
        assert await answer(hosts) == ("first", first[:12])


async def test_a_version_that_does_not_load_is_not_taken_also_after_a_start(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        async with open_git(server.url) as hosts:
            await hosts.until(lambda: "test@1" in hosts.pool.room())
            remote.commit({"agents/one/bundle.py": "def broken(:\n"})
            with pytest.raises(BundleLoadError, match="SyntaxError"):
                await hosts.pool.reload("test@1")
            assert await answer(hosts) == ("first", first[:12])
        async with open_git(server.url) as hosts:
            await hosts.until(lambda: "test@1" in hosts.pool.room())
            assert await answer(hosts) == ("first", first[:12])


async def test_a_server_that_hangs_keeps_no_other_bundle_waiting(open_git, remote):
    first = remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        server.away.set()
        async with open_git(server.url, timeout_s=60) as hosts:
            await asyncio.to_thread(server.came.wait)
            _, outcome = await hosts.outcome(job("hello", bundle_id="echo@1", echo={"deltas": 2}))
            assert (outcome, "test@1" in hosts.pool.room()) == (Completed(), False)
            assert unavailable(hosts) == "its code is being fetched"
            server.away.clear()
            server.back.set()
            await hosts.until(lambda: "test@1" in hosts.pool.room() or "git on" in unavailable(hosts))
        async with open_git(server.url) as hosts:
            await hosts.until(lambda: "test@1" in hosts.pool.room())
            assert await answer(hosts) == ("first", first[:12])


async def test_a_pool_closes_while_something_is_fetched(open_git, remote):
    remote.commit(code("first"))
    with http_server(remote.bare.parent) as server:
        server.away.set()
        async with open_git(server.url, timeout_s=60):
            await asyncio.to_thread(server.came.wait)


async def test_what_cannot_be_fetched_says_why(open_git, remote):
    remote.commit({"bundle.py": "no folder of this name"})
    with http_server(remote.bare.parent) as server:
        async with open_git(server.url) as hosts:
            await hosts.until(lambda: "has no folder 'agents/one' (git_subdir)" in unavailable(hosts))
        async with open_git(server.url, "absent") as hosts:
            await hosts.until(lambda: "has no branch, tag or commit 'absent'" in unavailable(hosts))
