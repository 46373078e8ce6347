"""The pool: which hosts exist, which take turns, and what follows when one dies or a bundle changes."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.integration.proc.bundles.conftest import echo_as, job

from kdcube.proc.bundles.host import BundleLoadError, HostLimits
from kdcube.proc.bundles.jobs import BundleUnavailable, Cancelled, Completed, HostLost, Steer

pytestmark = pytest.mark.anyio

WAITS = {"deltas": 2, "delay_ms": 3_600_000}
NAMED = """
@bundle.on_message
async def answer(turn):
    await turn.delta("NAME")
    if turn.text == "wait":
        await turn.inbox.get()
        await turn.delta(" NAME")
"""


def version(hosts) -> str:
    return hosts.pool.status()[0].version


async def test_room_and_status(open_hosts):
    async with open_hosts(slots=3) as hosts:
        assert hosts.pool.room() == {"test@1": 3}
        (status,) = hosts.pool.status()
        assert (status.id, status.default, status.running, status.unavailable) == ("test@1", True, 0, None)
        assert status.operations == ("echo",)
        assert status.version == version(hosts) != ""
        assert hosts.pool.max_attempts("test@1") == 1

        runs = [await hosts.start(job(echo=WAITS)) for _ in range(3)]
        assert hosts.pool.room() == {}
        assert hosts.pool.status()[0].running == 3
        for run in runs:
            run.running.cancel("done")
            assert await run.outcome == Cancelled()
        await hosts.until(lambda: hosts.pool.room() == {"test@1": 3})


async def test_what_the_code_declares_is_known_while_a_host_that_died_is_replaced(open_hosts, write_bundle):
    code = "bundle.max_attempts = 3\n" + NAMED.replace('if turn.text == "wait":', "os._exit(1)\n    if False:")
    async with open_hosts(write_bundle(code)) as hosts:
        run = await hosts.start(job())
        assert isinstance(await run.outcome, HostLost)
        assert hosts.pool.room() == {}
        assert hosts.pool.max_attempts("test@1") == 3


async def test_unknown_bundle_is_unavailable(open_hosts):
    async with open_hosts() as hosts:
        with pytest.raises(BundleUnavailable, match="not registered"):
            await hosts.start(job(bundle_id="other@1"))
        with pytest.raises(BundleUnavailable):
            hosts.pool.seat("other@1")
        with pytest.raises(BundleUnavailable):
            hosts.pool.max_attempts("other@1")


async def test_hundred_turns_at_once_on_two_hosts(open_hosts):
    async with open_hosts(slots=100, group_size=50) as hosts:
        first = [await hosts.start(job(str(n), echo=WAITS)) for n in range(50)]
        await hosts.until(lambda: hosts.pool.room() == {"test@1": 50})
        second = [await hosts.start(job(str(n), echo=WAITS)) for n in range(50)]
        assert len(hosts.pids()) == 2
        assert hosts.pool.room() == {}
        with pytest.raises(BundleUnavailable, match="full"):
            await hosts.start(job())
        for n, run in enumerate(first + second):
            run.running.steer(Steer(f"s{n}", str(n)))
        for n, run in enumerate(first + second):
            await run.until_answer(f"[steer: {n}]")
            run.running.cancel("done")
        assert [await run.outcome for run in first + second] == [Cancelled()] * 100


async def test_crash_of_one_host_leaves_the_other(open_hosts):
    async with open_hosts(slots=2, group_size=1) as hosts:
        first = await hosts.start(job(echo=WAITS))
        (pid,) = hosts.pids()
        await hosts.until(hosts.pool.room)
        second = await hosts.start(job(echo=WAITS))
        os.kill(pid, signal.SIGKILL)
        assert await first.outcome == HostLost("crash")
        await second.until_answer("0 ")
        second.running.cancel("done")
        assert await second.outcome == Cancelled()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("\nimport no_such_module\n", r"No module named 'no_such_module' \(.*bundle\.py, line 5\)"),
        ("def broken(:\n", r"SyntaxError: .*bundle\.py, line 4\)"),
        ("os._exit(3)\n", "its process ended while loading"),
        (
            "bundle = Bundle('other@1')\n" + NAMED,
            r"bundle\.py: the code says Bundle\('other@1'\), .*'test@1'; give both",
        ),
    ],
)
async def test_bundle_that_does_not_load_stops_the_opening(open_hosts, write_bundle, code, says):
    with pytest.raises(BundleLoadError, match=says) as error:
        async with open_hosts(write_bundle(code)):
            pass
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("bundle test@1 does not load: ")


async def test_bundle_that_never_finishes_loading(open_hosts, write_bundle):
    with pytest.raises(BundleLoadError, match=r"longer than 0\.3 s"):
        async with open_hosts(write_bundle("time.sleep(3600)\n"), limits=HostLimits(load_timeout_s=0.3)):
            pass


async def test_bundle_without_a_path(open_hosts):
    async with open_hosts(None, git_url="https://example.org/bundle.git") as hosts:
        await hosts.until(
            lambda: "git_url but no path, and this pool has no store" in hosts.pool.status()[0].unavailable
        )


async def test_reload_runs_the_new_version_beside_the_old(open_hosts, write_bundle):
    path = write_bundle(NAMED.replace("NAME", "old"))
    async with open_hosts(path) as hosts:
        old_version = version(hosts)
        old = await hosts.start(job("wait"))
        await old.until_answer("old")

        write_bundle(NAMED.replace("NAME", "new"))
        assert await hosts.pool.reload("test@1") == version(hosts) != old_version
        new, outcome = await hosts.outcome(job())
        assert outcome == Completed()
        assert (new.answer, new.running.bundle_version) == ("new", version(hosts))

        old.running.steer(Steer("s", "go on"))
        assert await old.outcome == Completed()
        assert (old.answer, old.running.bundle_version) == ("old old", old_version)
        await hosts.until(lambda: len(hosts.pids()) == 1)


async def test_reload_that_fails_keeps_the_old_version(open_hosts, write_bundle):
    path = write_bundle(NAMED)
    async with open_hosts(path) as hosts:
        before = version(hosts)
        write_bundle("1/0\n")
        with pytest.raises(BundleLoadError, match="ZeroDivisionError"):
            await hosts.pool.reload("test@1")
        assert version(hosts) == before
        _, outcome = await hosts.outcome(job())
        assert outcome == Completed()


async def test_bundle_that_no_longer_loads_is_unavailable_until_its_files_change(open_hosts, write_bundle):
    path = write_bundle(NAMED)
    async with open_hosts(path) as hosts:
        write_bundle("1/0\n")
        os.kill(hosts.pids()[0], signal.SIGKILL)
        await hosts.until(lambda: "ZeroDivisionError" in (hosts.pool.status()[0].unavailable or ""))
        assert hosts.pool.room() == {}
        with pytest.raises(BundleUnavailable, match=r"ZeroDivisionError.*line 4"):
            await hosts.start(job())

        write_bundle(NAMED.replace("NAME", "mended"))
        await hosts.until(hosts.pool.room)
        run, _ = await hosts.outcome(job())
        assert run.answer == "mended"


async def test_bundle_that_always_crashes_is_started_again_and_again(open_hosts):
    async with open_hosts() as hosts:
        for _ in range(3):
            await hosts.until(hosts.pool.room)
            _, outcome = await hosts.outcome(job(echo={"crash_after": 0}))
            assert outcome == HostLost("crash")
        await hosts.until(hosts.pool.room)
        _, outcome = await hosts.outcome(job("ok"))
        assert outcome == Completed()


async def test_a_pool_that_watches_no_more_takes_nothing_new_and_says_why(open_hosts):
    broken = False

    def clock() -> float:
        assert not broken, "the clock broke"
        return time.monotonic()

    async with open_hosts(clock=clock, limits=HostLimits(watch_interval_s=0.01)) as hosts:
        broken = True
        with pytest.raises(AssertionError, match="the clock broke"):
            await asyncio.shield(hosts.pool.keeping)
        assert hosts.pool.room() == {}
        with pytest.raises(BundleUnavailable, match="draining"):
            await hosts.start(job())
        broken = False  # a host that leaves looks at it


async def test_a_host_that_cannot_be_started_leaves_the_pool_at_work(open_hosts, tmp_path):
    async with open_hosts() as hosts:
        run_dir = tmp_path / "run"
        run_dir.rename(tmp_path / "away")
        os.kill(hosts.pids()[0], signal.SIGKILL)
        await hosts.until(lambda: "does not start" in (hosts.pool.status()[0].unavailable or ""))
        assert hosts.pool.room() == {}
        run_dir.mkdir()
        (tmp_path / "echo" / "beside.py").write_text("")
        await hosts.until(hosts.pool.room)
        _, outcome = await hosts.outcome(job("ok"))
        assert outcome == Completed()


async def test_drain_takes_nothing_new_and_finishes_the_rest(open_hosts):
    async with open_hosts() as hosts:
        run = await hosts.start(job(echo=WAITS))
        hosts.pool.drain()
        assert hosts.pool.room() == {}
        with pytest.raises(BundleUnavailable, match="draining"):
            await hosts.start(job())
        run.running.steer(Steer("s", "still here"))
        await run.until_answer("still here")
        run.running.cancel("done")
        assert await run.outcome == Cancelled()


async def test_close_kills_what_runs(open_hosts):
    async with open_hosts() as hosts:
        run = await hosts.start(job(echo=WAITS))
        await run.until_answer("0 ")
    assert await run.outcome == HostLost("killed")
    assert run.running.exited.done()


async def test_hosts_die_with_their_proc(tmp_path):
    """kill -9 of proc: no host stays behind, not even one whose loop is blocked."""
    program = f"""
import asyncio, json
from pathlib import Path
from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.pool import open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from tests.integration.proc.bundles.conftest import job, Run

async def main():
    release = BundleRelease(1, BundleEntry(id="test@1", path={echo_as("test@1", tmp_path)!r}))
    releases, run_dir = {{"test@1": release}}, Path({str(tmp_path)!r})
    async with open_host_pool(releases, needed=releases, slots=2, run_dir=run_dir) as pool:
        pool.seat("test@1").start(job(echo={{"block_s": 3600}}), Run())
        print(json.dumps(pool.status()[0].host_pids), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[4]
    )
    assert process.stdout is not None
    while not (line := await process.stdout.readline()).startswith(b"["):  # what is logged is before it
        assert line
    (pid,) = json.loads(line)
    host = os.pidfd_open(pid)
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(host, gone.set)
    process.kill()
    await process.communicate()
    await gone.wait()
    loop.remove_reader(host)
    os.close(host)
