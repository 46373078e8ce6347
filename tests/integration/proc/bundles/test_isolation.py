"""Bundles that do harm: their own host ends with a reason, nothing of it is left, and other bundles do not notice.

Limits are small, so that a test takes little of the machine: what a bundle may take is what the test gives it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.proc.bundles.conftest import Hosts, echo_as, is_alive, job

from kdcube.config.bundles import BundleEntry
from kdcube.proc.bundles.host import BundleLoadError, HostLimits
from kdcube.proc.bundles.jobs import BundleUnavailable, Completed, Failed, HostLost
from kdcube.proc.bundles.pool import open_host_pool
from kdcube.proc.bundles.release import BundleRelease

pytestmark = pytest.mark.anyio

SHORT = HostLimits(beat_timeout_s=2.0, cancel_grace_s=0.2, abandon_grace_s=0.2, watch_interval_s=0.05)

HOLDS = "    await turn.inbox.get()\n"

WAYS = {
    "segfault": ("import ctypes; ctypes.string_at(0)", {}, "crash"),
    "exit": ("os._exit(7)", {}, "crash"),
    "leak": (
        "hoard = []\n    while True: hoard.append(os.urandom(1024) * 1024); await asyncio.sleep(0)",
        {"memory_limit_mb": 150},
        "memory_limit",
    ),
    "leak in a child": (
        "import subprocess\n"
        "    hoards = 'x = bytearray(10**9); x[::4096] = bytes([1]) * len(x[::4096]); input()'\n"
        "    subprocess.Popen([sys.executable, '-c', hoards], stdin=subprocess.PIPE)\n" + HOLDS,
        {"memory_limit_mb": 200},
        "memory_limit",
    ),
    "memory without a name": (
        "for _ in range(64): os.write(os.memfd_create('m'), bytes(2**20))\n" + HOLDS,
        {"temp_limit_mb": 32},
        "temp_limit",
    ),
    "processes": (
        "import subprocess\n    for _ in range(60): subprocess.Popen(['sleep', '3600'])\n" + HOLDS,
        {"process_limit": 48},
        "process_limit",
    ),
    "fork bomb": (
        # Each of them forks: what the kernel or this test bounds is their number in all, should the keeper not.
        "for _ in range(9):\n        if os.fork() == 0: os.setsid()\n    time.sleep(3600)",
        {"process_limit": 48},
        "process_limit",
    ),
    "threads": (
        "import threading\n"
        "    for _ in range(200): threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n" + HOLDS,
        {"process_limit": 48},
        "process_limit",
    ),
    "temporary files": (
        "for n in range(64): open(f'f{n}', 'wb').write(bytes(2**20))\n" + HOLDS,
        {"temp_limit_mb": 32},
        "temp_limit",
    ),
    "a child that keeps the wire": (
        "os.fork() or time.sleep(3600)\n    os.kill(os.getpid(), 9)",
        {},
        "crash",
    ),
    "no beat": ("os.close(int(sys.argv[sys.argv.index('--beat') + 1])); time.sleep(3600)", {}, "crash"),
    "nesting without end": (
        "import socket\n    from kdcube.sdk.wire import encode_frames\n"
        "    wire = socket.socket(fileno=os.dup(int(sys.argv[sys.argv.index('--wire') + 1])))\n"
        "    body = b'\\x91' * 100_000 + b'\\x90'\n    frame = b'\\x91\\x94\\x04\\x01\\x81\\xa1a' + body + b'\\xc0'\n"
        "    wire.setblocking(True); wire.sendall(len(frame).to_bytes(4, 'big') + frame)\n" + HOLDS,
        {},
        "wire",
    ),
    "a frame without end": (
        "import socket\n    wire = socket.socket(fileno=os.dup(int(sys.argv[sys.argv.index('--wire') + 1])))\n"
        "    wire.setblocking(True); wire.sendall((2**31).to_bytes(4, 'big'))\n" + HOLDS,
        {},
        "wire",
    ),
}


def bad(code: str) -> str:
    return f"@bundle.on_message\nasync def answer(turn):\n    {code}\n"


@pytest.mark.parametrize("way", WAYS)
async def test_a_bundle_that_does_harm_ends_with_its_reason_and_the_next_turn_runs(open_hosts, write_bundle, way):
    code, entry, reason = WAYS[way]
    code = f"if turn.text == 'well': return 'well'\n    {code}"
    async with open_hosts(write_bundle(bad(code)), limits=SHORT, **entry) as hosts:
        (pid,) = hosts.pids()
        run = await hosts.start(job())
        outcome = await run.outcome
        assert outcome == HostLost(reason)
        if reason.endswith("_limit"):
            assert "of " in outcome.detail
        await run.running.exited
        assert not is_alive(pid)
        await hosts.until(hosts.pool.room)
        well, outcome = await hosts.outcome(job("well"))
        assert (well.answer, outcome) == ("well", Completed())
        lost = hosts.pool.status()[0].lost
        assert lost.count == {reason: 1}
        assert reason in lost.last


async def test_sys_exit_in_a_task_ends_its_turn_alone(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    async def leave():
        sys.exit(3)
    if turn.text == "task":
        await asyncio.create_task(leave())
    elif turn.text == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())
    elif turn.text == "call":
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(0.01)
    else:
        await turn.delta("waits")
        await turn.inbox.get()
""")
    async with open_hosts(path) as hosts:
        pids = hosts.pids()
        beside = await hosts.start(job("wait"))
        await beside.until_answer("waits")
        for way in ("task", "group"):
            _, outcome = await hosts.outcome(job(way))
            assert isinstance(outcome, Failed)
            assert "SystemExit" in outcome.detail
        _, outcome = await hosts.outcome(job("call"))
        assert outcome == Completed()
        assert not beside.running.outcome.done()
        assert hosts.pids() == pids


async def test_descriptors_that_are_used_up_cost_the_host_and_not_the_bundle(open_hosts, write_bundle):
    path = write_bundle("""
held = []
@bundle.on_message
async def answer(turn):
    if turn.text == "hoard":
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            await turn.delta("none left")
        await turn.inbox.get()
    open("/dev/null").close()
    return "well"
""")
    async with open_hosts(path, open_files_limit=64) as hosts:
        (pid,) = hosts.pids()
        hoard = await hosts.start(job("hoard"))
        await hoard.until_answer("none left")
        await hosts.until(lambda: hosts.pool.status()[0].lost.count == {"open_files_limit": 1})
        await hosts.until(lambda: hosts.pool.room() == {"test@1": 7})  # by a new host
        well, outcome = await hosts.outcome(job("well"))
        assert (well.answer, outcome) == ("well", Completed())
        assert pid in hosts.pids()
        hoard.running.cancel("done")
        await hosts.until(lambda: pid not in hosts.pids())


async def test_a_file_that_is_too_large_and_an_absurd_allocation_are_errors_of_their_turn(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    for attempt in (lambda: open("large", "wb").write(bytes(3 * 2**20)), lambda: bytearray(10**12)):
        try:
            attempt()
        except (OSError, MemoryError) as error:
            await turn.delta(f"{type(error).__name__} ")
""")
    async with open_hosts(path, file_size_limit_mb=2) as hosts:
        run, outcome = await hosts.outcome(job())
        assert (run.answer, outcome) == ("OSError MemoryError ", Completed())


async def test_nothing_that_a_bundle_started_outlives_its_host(open_hosts, write_bundle):
    """Children, a daemon that has left group and session and lost its parent, and one that ignores what it can."""
    path = write_bundle("""
import signal, subprocess
@bundle.on_message
async def answer(turn):
    told, tells = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_IGN)
            os.write(tells, b"%d " % os.getpid())
            time.sleep(3600)
        os._exit(0)
    os.wait()
    daemon = os.read(told, 100).decode()
    child = subprocess.Popen(["setsid", "--fork", "sh", "-c", "echo $$; exec sleep 3600"], stdout=subprocess.PIPE)
    await turn.delta(daemon + child.stdout.readline().decode() + "end")
    await turn.inbox.get()
""")
    async with open_hosts(path) as hosts:
        run = await hosts.start(job())
        await run.until_answer("end")
        daemons = [os.pidfd_open(int(pid)) for pid in run.answer.split()[:2]]
        os.kill(hosts.pids()[0], signal.SIGKILL)
        assert await run.outcome == HostLost("crash")
        await run.running.exited
        for daemon in daemons:
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(daemon, 0)
            os.close(daemon)


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('no')", "sys.exit(3)", "time.sleep(3600)", "os._exit(1)", "os.abort()"]
)
async def test_a_bundle_that_fails_at_import_is_a_version_that_is_not_taken(open_hosts, write_bundle, code):
    path = write_bundle(bad("return turn.text"))
    async with open_hosts(path, limits=HostLimits(load_timeout_s=3.0)) as hosts:
        write_bundle(code + "\n")
        reloading = asyncio.create_task(hosts.pool.reload("test@1"))
        meanwhile, outcome = await hosts.outcome(job("meanwhile"))
        assert (meanwhile.answer, outcome) == ("meanwhile", Completed())
        with pytest.raises(BundleLoadError):
            await reloading
        after, outcome = await hosts.outcome(job("after"))
        assert (after.answer, outcome) == ("after", Completed())


async def test_a_bundle_over_its_limit_at_import_is_told_so(open_hosts, write_bundle):
    path = write_bundle("hoard = os.urandom(1024) * 300_000\ntime.sleep(3600)\n")
    with pytest.raises(BundleLoadError, match=r"while loading over its memory_limit: \d+ MB, of 150"):
        async with open_hosts(path, memory_limit_mb=150):
            pass


async def test_memory_that_processes_share_counts_once(open_hosts, write_bundle):
    path = write_bundle("""
hoard = bytearray(os.urandom(1024)) * 100_000
@bundle.on_message
async def answer(turn):
    told, tells = os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            os.write(tells, b"." if sum(hoard[::4096]) else b"")
            time.sleep(3600)
    while os.read(told, 1) and (turn.state.setdefault("n", 0), turn.state.update(n=turn.state["n"] + 1))[0] < 3:
        pass
    while True:  # until the keeper has looked
        await turn.delta(".")
        await asyncio.sleep(0.3)
""")
    async with open_hosts(path, memory_limit_mb=300) as hosts:
        run = await hosts.start(job())
        await run.until(lambda: len(run.answer) >= 3 or run.running.outcome.done())
        assert not run.running.outcome.done()
        assert hosts.pool.status()[0].lost.count == {}


async def test_hosts_are_put_on_as_many_cores_as_they_may_use(open_hosts, write_bundle):
    path = write_bundle(bad("return f'{len(os.sched_getaffinity(0))} {os.nice(0)}'"))
    async with open_hosts(path, cpu_limit=1) as hosts:
        run, _ = await hosts.outcome(job())
        assert run.answer == f"1 {os.nice(0) + 5}"


async def test_a_host_gets_no_new_rights(open_hosts, write_bundle):
    path = write_bundle(bad("return open('/proc/self/status').read() + open('/proc/self/oom_score_adj').read()"))
    async with open_hosts(path) as hosts:
        run, _ = await hosts.outcome(job())
    assert "NoNewPrivs:\t1" in run.answer
    assert int(run.answer.split()[-1]) >= 500


async def test_a_keeper_that_is_killed_takes_its_host_with_it(open_hosts, write_bundle):
    path = write_bundle(bad("os.kill(os.getppid(), 9)\n    await turn.inbox.get()"))
    async with open_hosts(path) as hosts:
        run = await hosts.start(job())
        assert await run.outcome == HostLost("crash")
        await run.running.exited
        await hosts.until(hosts.pool.room)


FLOODS = {
    "prints": "while turn.cancelled.reason is None:\n        print('x' * 1000, flush=False); await asyncio.sleep(0)",
    "steps": "while True: await turn.step('s', data={'x': 'y' * 1000})",
    "raw": (
        "import socket\n    from kdcube.sdk.wire import Delta, encode_frames\n"
        "    wire = socket.socket(fileno=os.dup(int(sys.argv[sys.argv.index('--wire') + 1])))\n"
        "    frames = b''.join(encode_frames([Delta(999, 'x')] * 1000)); wire.setblocking(True)\n"
        "    await asyncio.to_thread(lambda: [wire.sendall(frames) for _ in iter(int, 1)])"
    ),
    "blocks": "time.sleep(3600)",
    "burns": "while True: pass",
}


@pytest.mark.parametrize("way", FLOODS)
async def test_turns_of_another_bundle_go_on_beside_one_that_does_harm(write_bundle, tmp_path: Path, way):
    changed = asyncio.Event()
    releases = {
        "test@1": BundleRelease(1, BundleEntry(id="test@1", path=write_bundle(bad(FLOODS[way])))),
        "quiet@1": BundleRelease(1, BundleEntry(id="quiet@1", path=echo_as("quiet@1", tmp_path))),
    }
    run_dir = tmp_path / "run"
    with capture_logs():
        async with open_host_pool(
            releases, needed=releases, slots=8, run_dir=run_dir, limits=SHORT, on_change=changed.set
        ) as pool:
            hosts = Hosts(pool, changed)
            harm = await hosts.start(job(), acknowledge=False)
            for number in range(50):
                quiet, outcome = await hosts.outcome(job(f"one two {number}", bundle_id="quiet@1"))
                assert (quiet.answer, outcome) == (f"one two {number}", Completed())
            harm.running.cancel("enough")
            await harm.running.exited
            assert [status.lost.count for status in pool.status() if status.id == "quiet@1"] == [{}]
    assert list(run_dir.iterdir()) == []


async def test_limits_are_in_the_log_with_their_figures(open_hosts, write_bundle):
    path = write_bundle(bad("hoard = os.urandom(1024) * 300_000\n" + HOLDS))
    with capture_logs() as logs:
        async with open_hosts(path, memory_limit_mb=150) as hosts:
            await hosts.outcome(job())
            await hosts.until(hosts.pool.room)
    (lost,) = [entry for entry in logs if entry["event"] == "host_lost"]
    assert lost["reason"] == "memory_limit"
    assert lost["detail"].endswith("MB, of 150")


async def test_a_bundle_without_a_host_says_why(open_hosts, write_bundle):
    path = write_bundle(bad("os._exit(1)"))
    async with open_hosts(path) as hosts:
        await hosts.outcome(job())
        with pytest.raises(BundleUnavailable, match="being replaced"):
            hosts.pool.seat("test@1")
