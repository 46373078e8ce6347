"""Bundles that come, change and go while turns run, and the version that each turn has."""

import asyncio
import os
import signal

import pytest
from tests.integration.proc.bundles.conftest import Run, job

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.jobs import BundleUnavailable, Cancelled, Completed, HostLost, Steer
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.seat import VersionGone
from kdcube.telemetry import failpoints

pytestmark = pytest.mark.anyio

NAMED = """
@bundle.on_message
async def answer(turn):
    await turn.delta("NAME" + turn.config.get("tail", ""))
    if turn.text == "wait":
        await turn.inbox.get()
        await turn.delta(" NAME")
"""


@pytest.fixture
def bundle(write_bundle):
    """Writes a version of ``test@1``; gives its release."""

    def write(name: str, number: int, **fields) -> BundleRelease:
        path = write_bundle(NAMED.replace("NAME", name))
        return BundleRelease(number, BundleEntry(id="test@1", path=path, **fields))

    return write


def status(hosts, bundle_id="test@1"):
    return next((status for status in hosts.pool.status() if status.id == bundle_id), None)


async def active(hosts, number: int) -> None:
    await hosts.until(lambda: (now := status(hosts)) and now.release == number)


async def test_a_seat_keeps_its_version_whatever_is_released(open_hosts, bundle):
    old = bundle("old", 1)
    async with open_hosts(old.entry.path) as hosts:
        seat, version = hosts.pool.seat("test@1"), status(hosts).version
        hosts.pool.apply({"test@1": bundle("new", 2)}, None)
        await active(hosts, 2)
        assert (seat.version, seat.release.number) == (version, 1)
        run = Run()
        run.running = seat.start(job(), run)
        assert (await run.outcome, run.answer, run.running.bundle_version) == (Completed(), "old", version)
        await hosts.until(lambda: len(hosts.pids()) == 1)
        new, _ = await hosts.outcome(job())
        assert (new.answer, new.running.bundle_version) == ("new", status(hosts).version)


async def test_a_seat_whose_host_died_finds_another_of_its_version_or_says_that_it_is_gone(open_hosts, bundle):
    old = bundle("old", 1)
    async with open_hosts(old.entry.path) as hosts:
        first, second = hosts.pool.seat("test@1"), hosts.pool.seat("test@1")
        os.kill(hosts.pids()[0], signal.SIGKILL)
        await hosts.until(lambda: not hosts.pids())
        run = Run()
        with pytest.raises(BundleUnavailable, match="its host is being replaced"):
            first.start(job(), run)
        await hosts.until(hosts.pool.room)
        run.running = first.start(job(), run)
        assert await run.outcome == Completed()
        hosts.pool.apply({"test@1": bundle("new", 2)}, None)
        await active(hosts, 2)
        with pytest.raises(VersionGone):
            second.start(job(), Run())
        assert hosts.pool.room() == {"test@1": 8}


async def test_a_removed_bundle_finishes_its_turns_and_leaves_and_may_come_back(open_hosts, bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path) as hosts:
        run = await hosts.start(job("wait"))
        await run.until_answer("one")
        hosts.pool.apply({}, None)
        assert hosts.pool.room() == {}
        assert status(hosts).unavailable == "it is not registered here"
        with pytest.raises(BundleUnavailable, match="not registered"):
            hosts.pool.seat("test@1")
        run.running.steer(Steer("s", "go on"))
        assert (await run.outcome, run.answer) == (Completed(), "one one")
        await hosts.until(lambda: status(hosts) is None)

        hosts.pool.apply({"test@1": bundle("two", 3)}, None)
        await hosts.until(hosts.pool.room)
        again, _ = await hosts.outcome(job())
        assert again.answer == "two"
        hosts.pool.apply({}, None)
        hosts.pool.apply({"test@1": bundle("three", 5)}, None)
        await hosts.until(hosts.pool.room)
        assert (await hosts.outcome(job()))[0].answer == "three"


async def test_a_bundle_comes_beside_others(open_hosts, bundle, tmp_path):
    release = bundle("one", 1)
    other = tmp_path / "other"
    other.mkdir()
    code = (tmp_path / "bundle" / "bundle.py").read_text().replace("test@1", "other@1").replace("one", "other")
    (other / "bundle.py").write_text(code)
    async with open_hosts(release.entry.path) as hosts:
        comes = BundleRelease(1, BundleEntry(id="other@1", path=str(other)))
        hosts.pool.apply({"test@1": release, "other@1": comes}, "other@1")
        await hosts.until(lambda: len(hosts.pool.room()) == 2)
        run, _ = await hosts.outcome(job(bundle_id="other@1"))
        assert (run.answer, status(hosts, "other@1").default) == ("other", True)


async def test_what_hosts_do_not_see_changes_without_new_hosts(open_hosts, bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path) as hosts:
        pids = hosts.pids()
        changed = bundle("one", 2, config={"tail": "!"}, max_attempts=3, concurrency=2)
        hosts.pool.apply({"test@1": changed}, None)
        await active(hosts, 2)
        assert (hosts.pids(), hosts.pool.room(), hosts.pool.max_attempts("test@1")) == (pids, {"test@1": 2}, 3)
        seat = hosts.pool.seat("test@1")
        assert seat.release.entry.config == {"tail": "!"}
        seat.leave()
        hosts.pool.apply({"test@1": bundle("one", 3, wall_limit_s=20, idle_limit_s=20)}, None)
        await active(hosts, 3)
        await hosts.until(lambda: len(hosts.pids()) == 1 and hosts.pids() != pids)


async def test_a_turn_is_repeated_only_if_the_release_that_ran_it_and_the_one_that_would_allow_it(open_hosts, bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path, max_attempts=3) as hosts:
        often = hosts.pool.seat("test@1")
        assert often.max_attempts == 3
        hosts.pool.apply({"test@1": bundle("two", 2)}, None)
        await active(hosts, 2)
        once = hosts.pool.seat("test@1")
        assert (often.max_attempts, once.max_attempts) == (1, 1)
        hosts.pool.apply({"test@1": bundle("three", 3, max_attempts=5)}, None)
        await active(hosts, 3)
        assert (often.max_attempts, once.max_attempts) == (3, 1)
        hosts.pool.apply({}, None)
        assert often.max_attempts == 1


async def test_busy_hosts_are_followed_by_as_many(open_hosts, bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path, slots=12, group_size=2) as hosts:
        runs: list[Run] = []
        for _ in range(5):
            await hosts.until(hosts.pool.room)
            runs.append(await hosts.start(job("wait")))
            await runs[-1].until_answer("one")
        await hosts.until(lambda: len(hosts.pids()) >= 3)
        hosts.pool.apply({"test@1": bundle("two", 2)}, None)
        await active(hosts, 2)
        assert hosts.pool.room()["test@1"] >= 6
        assert (await hosts.outcome(job()))[0].answer == "two"
        for run in runs:
            run.running.cancel("done")
            assert await run.outcome == Cancelled()
        await hosts.until(lambda: status(hosts).running == 0)


async def test_a_release_that_is_not_wanted_any_more_is_given_up(open_hosts, bundle, write_bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path) as hosts:
        slow = BundleRelease(2, BundleEntry(id="test@1", path=write_bundle("time.sleep(3600)\n")))
        hosts.pool.apply({"test@1": slow}, None)
        assert (await hosts.outcome(job()))[0].answer == "one"
        hosts.pool.apply({"test@1": bundle("three", 3)}, None)
        await active(hosts, 3)
        assert (await hosts.outcome(job()))[0].answer == "three"


async def test_a_host_that_was_staged_for_nothing_leaves(open_hosts, bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path) as hosts:
        run = await hosts.start(job("wait"))
        for number in range(2, 6):
            hosts.pool.apply({"test@1": bundle(f"version {number}", number)}, None)
            await asyncio.sleep(0)
        await active(hosts, 5)
        run.running.cancel("done")
        await run.outcome
        await hosts.until(lambda: len(hosts.pids()) == 1)
    assert not isinstance(await run.outcome, HostLost)


async def test_turns_run_the_old_version_until_the_new_one_has_loaded(open_hosts, bundle):
    release = bundle("one", 1)
    async with open_hosts(release.entry.path) as hosts:
        failpoints.install("proc.activate.loaded=pause")
        try:
            hosts.pool.apply({"test@1": bundle("two", 2)}, None)
            while not failpoints.visits("proc.activate.loaded"):
                await asyncio.sleep(0.01)
            assert (await hosts.outcome(job()))[0].answer == "one"
            failpoints.release("proc.activate.loaded")
            await active(hosts, 2)
        finally:
            failpoints.install("")
        assert (await hosts.outcome(job()))[0].answer == "two"
