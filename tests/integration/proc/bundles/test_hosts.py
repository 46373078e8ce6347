"""Bundle hosts as processes: what they run, what they are given, and how they end (rules 9 and 23)."""

import asyncio
import json
import os
import signal

import pytest
from structlog.testing import capture_logs
from tests.integration.proc.bundles.conftest import is_alive, job

from kdcube.proc.bundles.calls import Answered, CallJob, CallLost, CallStopped, InvalidData, UnknownOperation
from kdcube.proc.bundles.host import HostLimits
from kdcube.proc.bundles.jobs import (
    Cancelled,
    Completed,
    Delta,
    Failed,
    HistoryItem,
    HostLost,
    Service,
    Steer,
    Step,
    TurnTooLarge,
)
from kdcube.sdk.wire import CREDIT_BYTES, Told, User

pytestmark = pytest.mark.anyio

SHORT = HostLimits(beat_timeout_s=2.0, cancel_grace_s=0.2, abandon_grace_s=0.2, watch_interval_s=0.05)


async def test_a_turn_runs_and_completes(open_hosts):
    async with open_hosts() as hosts:
        run, outcome = await hosts.outcome(job("hello brave  new\nworld"))
        assert outcome == Completed()
        assert run.answer == "hello brave  new\nworld"
        assert [event.text for event in run.events] == ["hello ", "brave  ", "new\n", "world"]
        assert run.running.bundle_version == hosts.pool.status()[0].version
        await run.running.exited


async def test_all_that_a_turn_carries_crosses_the_wire(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    await turn.delta(turn.text + turn.history[0].text + turn.config["c"] + turn.secret("KEY") + turn.user.id)
    await turn.step("s", "S", "completed", data={"attempt": turn.attempt})
    await turn.cite("T", "u")
    await turn.usage("m", 1, 2)
    turn.state["n"] += 1
""")
    async with open_hosts(path) as hosts:
        run, outcome = await hosts.outcome(
            job("t", history=[HistoryItem("user", "h")], config={"c": "c"}, secrets={"KEY": "k"}, state={"n": 1})
        )
    assert outcome == Completed({"n": 2})
    assert run.answer == "thckuser-1"
    assert [type(event) for event in run.events] == [Delta, Step, Service, Service]
    assert run.events[1].data == {"attempt": 1}
    assert run.events[2].data == [{"n": 1, "title": "T", "uri": "u"}]


async def test_failures_reach_proc_with_their_detail(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    if turn.text == "told":
        raise BundleError("quota", "Come back tomorrow.", retryable=True)
    raise RuntimeError("inner detail")
""")
    async with open_hosts(path) as hosts:
        _, told = await hosts.outcome(job("told"))
        _, unexpected = await hosts.outcome(job())
    assert told == Failed("quota", "Come back tomorrow.", retryable=True)
    assert isinstance(unexpected, Failed)
    assert unexpected.code == "bundle_error"
    assert "inner detail" not in unexpected.message
    assert "inner detail" in unexpected.detail


async def test_a_host_inherits_nothing(open_hosts, write_bundle, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    path = write_bundle("""
import json, resource, stat
@bundle.on_message
async def answer(turn):
    return json.dumps({
        "environment": sorted(os.environ),
        "home": oct(stat.S_IMODE(os.stat(os.environ["HOME"]).st_mode)),
        "cwd": os.getcwd() == os.environ["HOME"],
        "argv": sys.argv,
        "fds": sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")),
        "inheritable": [fd for fd in range(3, 100) if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)],
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "leader": os.getpgrp() == os.getpid(),
        "other": [name for name in ("KEY", "OTHER") if name in turn._secrets],
    })
""")
    async with open_hosts(path) as hosts:
        run, _ = await hosts.outcome(job(secrets={"KEY": "granted-value"}))
        told = json.loads(run.answer)
        with open(f"/proc/{hosts.pids()[0]}/environ", "rb") as environ:
            assert b"secret" not in environ.read()
    assert told["environment"] == sorted(
        ["HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED", "TMPDIR"]
    )
    assert told["home"] == "0o700"
    assert told["cwd"] is True
    assert not any("granted" in argument for argument in told["argv"])
    assert told["inheritable"] == []
    assert told["core"] == [0, 0]
    assert told["leader"] is True
    assert told["other"] == ["KEY"]


async def test_output_of_a_bundle_is_logged(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    print("to stdout")
    print("to stderr", file=sys.stderr)
""")
    with capture_logs() as logs:
        async with open_hosts(path) as hosts:
            await hosts.outcome(job())
    lines = {(entry["stream"], entry["line"]) for entry in logs if entry["event"] == "bundle_output"}
    assert lines == {("stdout", "to stdout"), ("stderr", "to stderr")}
    assert all(entry["bundle"] == "test@1" for entry in logs if entry["event"] == "bundle_output")


class NothingToAsk:
    async def conversation(self, asked):
        raise NotImplementedError

    async def start_turn(self, asked):
        raise NotImplementedError


def call_job(operation, data=b"", timeout_s=30.0):
    return CallJob(
        operation=operation, data=data, user=User("u", "paid"), config={"n": 1}, secrets={}, unreadable={},
        request_id="r", timeout_s=timeout_s, asks=NothingToAsk(),
        told=lambda error: Told(0, 0, None, "refused", str(error)),
    )  # fmt: skip


async def test_operations_are_called_over_the_wire(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.operation("add")
async def add(ctx, data: list[int]):
    return sum(data) + ctx.config["n"]

@bundle.operation("wait")
async def wait(ctx):
    await asyncio.Event().wait()

@bundle.operation("crash")
async def crash(ctx):
    os._exit(1)
""")
    async with open_hosts(path) as hosts:

        async def call(operation, data=b"", timeout_s=30.0):
            return await hosts.pool.for_calls("test@1").call(call_job(operation, data, timeout_s)).outcome

        assert await call("add", b"[1, 2]") == Answered(b"4")
        assert await call("add", b"[1, true]") == InvalidData("data[1]", "Expected `int`, got `bool`")
        assert await call("other") == UnknownOperation()
        assert await call("wait", timeout_s=0.05) == CallStopped("timeout")
        with pytest.raises(TurnTooLarge):
            await call("add", b" " * 2**22)
        assert await call("crash") == CallLost("crash")


async def test_an_operation_that_does_not_stop_costs_its_host(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.operation("deaf")
async def deaf(ctx):
    print("began")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
""")
    async with open_hosts(path, limits=HostLimits(cancel_grace_s=0.2)) as hosts:
        (before,) = hosts.pids()
        call = hosts.pool.for_calls("test@1").call(call_job("deaf", timeout_s=0.3))
        assert await call.outcome == CallStopped("timeout")
        await call.exited
        await hosts.until(lambda: hosts.pids() not in ((), (before,)))


# ---- steers


async def test_steer_is_handed_over_only_when_it_is_committed(open_hosts):
    asked = []

    async def grants(steer_ids):
        asked.extend(steer_ids)
        return {"yes"} & set(steer_ids)

    async with open_hosts() as hosts:
        run = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}), grants=grants)
        await run.until_answer("0 ")
        run.running.steer(Steer("no", "not this"))
        run.running.steer(Steer("yes", "but this"))
        await run.until_answer("[steer: but this]")
        run.running.cancel("done")
        assert await run.outcome == Cancelled()
    assert asked == ["no", "yes"]
    assert "not this" not in run.answer


async def test_steer_whose_commit_fails_stays_unapplied_and_the_turn_goes_on(open_hosts):
    async def grants(steer_ids):
        raise RuntimeError("the store is gone")

    async with open_hosts() as hosts:
        run = await hosts.start(job(echo={"deltas": 2, "delay_ms": 300}), grants=grants)
        run.running.steer(Steer("a", "text"))
        assert await run.outcome == Completed()
    assert run.answer == "0 1 "


async def test_steer_applied_for_a_handler_that_ended_is_reported(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    await turn.delta("ready")
    while not len(turn.inbox):
        await asyncio.sleep(0)
    take = asyncio.create_task(turn.inbox.get())
    await asyncio.sleep(0)
    take.cancel()
""")
    async with open_hosts(path) as hosts:
        run = await hosts.start(job())
        await run.until_answer("ready")
        run.running.steer(Steer("late", "text"))
        assert await run.outcome == Completed(None, ("late",))


# ---- credit


async def test_a_turn_stops_at_its_credit_and_another_goes_on(open_hosts):
    async with open_hosts() as hosts:
        stalled = await hosts.start(job(echo={"deltas": 100, "text_bytes": 10_000}), acknowledge=False)
        await stalled.until(lambda: len(stalled.answer) > CREDIT_BYTES - 10_000)
        _, other = await hosts.outcome(job("goes on"))
        assert other == Completed()
        assert len(stalled.answer) == 260_000 <= CREDIT_BYTES
        stalled.acknowledge = True
        stalled.running.credit(len(stalled.answer))
        assert await stalled.outcome == Completed()
        assert len(stalled.answer) == 1_000_000


async def test_cancel_releases_a_turn_without_credit(open_hosts):
    async with open_hosts() as hosts:
        run = await hosts.start(job(echo={"deltas": 100, "text_bytes": 10_000}), acknowledge=False)
        await run.until(lambda: len(run.answer) > CREDIT_BYTES - 10_000)
        run.running.cancel("stop")
        assert await run.outcome == Cancelled()


async def test_turn_that_does_not_fit_into_a_frame_is_refused(open_hosts):
    async with open_hosts() as hosts:
        with pytest.raises(TurnTooLarge):
            await hosts.start(job("x" * 5_000_000))
        _, outcome = await hosts.outcome(job("still there"))
        assert outcome == Completed()


# ---- cancel and limits


async def test_cancel_is_answered(open_hosts):
    async with open_hosts() as hosts:
        run = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}))
        await run.until_answer("0 ")
        run.running.cancel("stop button")
        assert await run.outcome == Cancelled()
        assert run.running.exited.done()
        _, outcome = await hosts.outcome(job("same host"))
        assert outcome == Completed()


STUBBORN = """
@bundle.on_message
async def answer(turn):
    await turn.delta("started")
    if turn.text == "stubborn":
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    elif turn.text == "blocked":
        try:
            await asyncio.sleep(0.05)
        finally:
            time.sleep(3600)
    else:
        await turn.inbox.get()
"""


async def test_turn_that_ignores_its_cancel_retires_the_host_and_others_finish(open_hosts, write_bundle):
    async with open_hosts(write_bundle(STUBBORN), limits=SHORT) as hosts:
        (pid,) = hosts.pids()
        stubborn = await hosts.start(job("stubborn"))
        other = await hosts.start(job("other"))
        await stubborn.until_answer("started")
        await other.until_answer("started")

        stubborn.running.cancel("stop")
        assert await stubborn.outcome == HostLost("unresponsive_cancel")
        assert not stubborn.running.exited.done()
        await hosts.until(lambda: hosts.pool.room() == {"test@1": 7})  # by a new host
        assert pid in hosts.pids() and len(hosts.pids()) == 2

        other.running.steer(Steer("s", "go on"))
        assert await other.outcome == Completed()
        await stubborn.running.exited
        await hosts.until(lambda: pid not in hosts.pids())
        assert not is_alive(pid)


async def test_turn_that_is_abandoned_stops_or_takes_its_host_with_it(open_hosts, write_bundle):
    async with open_hosts(write_bundle(STUBBORN), limits=SHORT) as hosts:
        (pid,) = hosts.pids()
        docile = await hosts.start(job("docile"))
        await docile.until_answer("started")
        docile.running.abandon()
        assert await docile.outcome == Cancelled()
        assert hosts.pids() == (pid,)

        stubborn = await hosts.start(job("stubborn"))
        other = await hosts.start(job("other"))
        await stubborn.until_answer("started")
        stubborn.running.cancel("stop")
        assert await stubborn.outcome == HostLost("unresponsive_cancel")
        stubborn.running.abandon()
        await stubborn.running.exited
        assert not is_alive(pid)
        assert await other.outcome == HostLost("lease_lost")


async def test_turn_that_blocks_the_loop_is_cancelled_by_the_end_of_its_host(open_hosts, write_bundle):
    async with open_hosts(write_bundle(STUBBORN), limits=SHORT) as hosts:
        run = await hosts.start(job("blocked"))
        await run.until_answer("started")
        run.running.cancel("stop")
        assert await run.outcome == HostLost("unresponsive_cancel")
        await run.running.exited


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"idle_limit_s": 0.3, "wall_limit_s": 3600.0}, "idle_limit"),
        ({"idle_limit_s": 0.3, "wall_limit_s": 0.3}, "wall_limit"),
    ],
)
async def test_turn_at_its_limit_is_cancelled_and_its_host_stays(open_hosts, limits, reason):
    async with open_hosts(limits=SHORT, **limits) as hosts:
        pids = hosts.pids()
        run = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}))
        assert await run.outcome == HostLost(reason)
        assert run.running.exited.done()
        assert hosts.pids() == pids
        _, outcome = await hosts.outcome(job("same host"))
        assert outcome == Completed()


async def test_turn_that_ignores_its_limit_keeps_the_reason(open_hosts, write_bundle):
    async with open_hosts(write_bundle(STUBBORN), limits=SHORT, idle_limit_s=0.3) as hosts:
        run = await hosts.start(job("stubborn"))
        assert await run.outcome == HostLost("idle_limit")
        await run.running.exited


async def test_turn_that_waits_for_the_log_is_not_idle(open_hosts):
    async with open_hosts(limits=SHORT, idle_limit_s=0.3) as hosts:
        waits = await hosts.start(job(echo={"deltas": 30, "text_bytes": 10_000}), acknowledge=False)
        idle = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}))
        assert await idle.outcome == HostLost("idle_limit")
        assert not waits.running.outcome.done()
        waits.acknowledge = True
        waits.running.credit(len(waits.answer))
        assert await waits.outcome == Completed()


# ---- death


@pytest.mark.parametrize("after", [0, 3])
async def test_crash_ends_all_turns_of_the_host_and_a_new_one_comes(open_hosts, after):
    async with open_hosts() as hosts:
        other = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}))
        await other.until_answer("0 ")
        run, outcome = await hosts.outcome(job(echo={"deltas": 10, "crash_after": after}))
        assert outcome == HostLost("crash")
        assert len(run.events) == after
        assert await other.outcome == HostLost("crash")
        await run.running.exited
        await hosts.until(hosts.pool.room)
        _, outcome = await hosts.outcome(job("again"))
        assert outcome == Completed()


async def test_kill_9_of_a_host(open_hosts):
    async with open_hosts() as hosts:
        run = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}))
        os.kill(hosts.pids()[0], signal.SIGKILL)
        assert await run.outcome == HostLost("crash")


async def test_host_that_stands_still_is_killed(open_hosts):
    async with open_hosts(limits=SHORT) as hosts:
        run = await hosts.start(job(echo={"deltas": 2, "delay_ms": 3_600_000}))
        os.kill(hosts.pids()[0], signal.SIGSTOP)
        assert await run.outcome == HostLost("no_beat")
        await run.running.exited


async def test_interpreter_that_stands_still_is_killed(open_hosts):
    async with open_hosts(limits=SHORT) as hosts:
        _, outcome = await hosts.outcome(job(echo={"deltas": 1, "hold_gil_s": 3600}))
        assert outcome == HostLost("no_beat")


async def test_blocked_loop_is_not_killed(open_hosts):
    async with open_hosts(limits=SHORT) as hosts:
        run, outcome = await hosts.outcome(job("after all", echo={"block_s": 2 * SHORT.beat_timeout_s}))
        assert outcome == Completed()
        assert run.answer == "after all"


async def test_what_a_host_started_dies_with_it(open_hosts, write_bundle):
    path = write_bundle("""
import subprocess
@bundle.on_message
async def answer(turn):
    child = subprocess.Popen(["sleep", "3600"])
    await turn.delta(str(child.pid))
    await turn.step("told")
    await turn.inbox.get()
""")
    async with open_hosts(path) as hosts:
        run = await hosts.start(job())
        await run.until(lambda: len(run.events) == 2)
        child = os.pidfd_open(int(run.answer))
        os.kill(hosts.pids()[0], signal.SIGKILL)
        assert await run.outcome == HostLost("crash")
        await run.running.exited
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(child, ended.set)
        await ended.wait()
        asyncio.get_running_loop().remove_reader(child)
        os.close(child)


async def test_host_that_takes_too_much_memory_is_killed(open_hosts, write_bundle):
    path = write_bundle("""
@bundle.on_message
async def answer(turn):
    hoard = bytearray(os.urandom(1024)) * 300_000
    await turn.inbox.get()
""")
    async with open_hosts(path, memory_limit_mb=200) as hosts:
        _, outcome = await hosts.outcome(job())
        assert outcome == HostLost("memory_limit")


@pytest.mark.parametrize(
    "says",
    [
        'b"\\xff" * 64',
        'b"".join(encode_frames([Delta(1, "x" * 32_768)] * 10))',
        'b"".join(encode_frames([Loaded(1, [])]))',
    ],
    ids=["no frame", "text beyond its credit", "out of place"],
)
async def test_host_that_breaks_the_wire_is_killed(open_hosts, write_bundle, says):
    path = write_bundle(f"""
import socket
from kdcube.sdk.wire import Delta, Loaded, encode_frames
@bundle.on_message
async def answer(turn):
    wire = socket.socket(fileno=os.dup(int(sys.argv[sys.argv.index("--wire") + 1])))
    wire.setblocking(True)
    wire.sendall({says})
    await turn.inbox.get()
""")
    async with open_hosts(path) as hosts:
        run = await hosts.start(job(), acknowledge=False)
        assert await run.outcome == HostLost("wire")
