"""A user's data is erased from both stores, whatever runs, crashes or wakes meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import pytest
from tests.eventually import eventually
from tests.integration.proc.conftest import KEYS, Client, Deployment, kinds, terminal

from kdcube.postgres.audit import Actor
from kdcube.postgres.erasing import Erasing, Erasure
from kdcube.postgres.records import NotStarted, Refusal, StartRequest
from kdcube.proc.eraser import Eraser
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.turns import TurnState
from kdcube.redis.remains import Remains
from kdcube.redis.workers import Workers
from kdcube.telemetry import failpoints
from kdcube.telemetry.failpoints import InjectedFailure

pytestmark = pytest.mark.anyio

SECRET = "what ada said in confidence"


@pytest.fixture
def erasing(client: Client) -> Erasing:
    return Erasing(client.database, "local", "main")


@pytest.fixture
def eraser(client: Client, erasing: Erasing) -> Eraser:
    """Not that of a proc: the test takes its rounds."""
    return Eraser(erasing=erasing, turns=client.turns, queue=client.queue, remains=Remains(client.connection, KEYS))


@pytest.fixture(autouse=True)
async def _no_failpoints() -> AsyncGenerator[None]:
    yield
    failpoints.install("")


async def request(client: Client, erasing: Erasing, user: str = "ada") -> Erasure:
    """As ingress does it."""
    requested = await erasing.request(user, Actor(user), time.time_ns() // 1_000_000)
    epoch = await client.epoch()
    for result in requested.cancelled:
        if result.state_after is TurnState.RUNNING:
            await client.queue.cancel(result.turn_id, epoch=epoch)
        elif (envelope := await client.turns.envelope(result.turn_id)) is not None:
            line = terminal_line(TurnState.CANCELLED, ts_ms=1, attempt=0)
            await client.queue.finish(envelope, None, epoch=epoch, state=TurnState.CANCELLED, line=line)
    return requested.erasure


async def done(erasing: Erasing, erasure: Erasure) -> Erasure:
    async def is_done() -> Erasure | None:  # maintenance writes the receipt, and tells nobody
        receipt = await erasing.get(erasure.erasure_id)
        assert receipt is not None
        return receipt if receipt.done_ms is not None else None

    finished = await eventually(is_done, "the erasure is done")
    assert finished is not None
    return finished


async def everything(client: Client) -> str:
    """All that both stores hold, as text."""
    found: list[str] = []
    tables = await client.database.fetch("select tablename from pg_tables where schemaname = 'public'")
    for row in tables:
        rows = await client.database.fetch(f"select x::text as whole from {row['tablename']} x")
        found += [each["whole"] for each in rows]
    rows = await client.database.fetch("select encode(envelope, 'escape') as envelope from turns")
    found += [each["envelope"] for each in rows]
    readers = {b"string": ("GET",), b"hash": ("HGETALL",), b"list": ("LRANGE", 0, -1)}
    readers |= {b"stream": ("XRANGE", "-", "+"), b"zset": ("ZRANGE", 0, -1), b"set": ("SMEMBERS",)}
    for key in await client.connection.call("KEYS", "*"):
        kind = await client.connection.call("TYPE", key)
        command, *rest = readers[kind if isinstance(kind, bytes) else kind.encode()]
        found.append(f"{key!r} {await client.connection.call(command, key, *rest)!r}")
    return "\n".join(found)


async def test_a_user_is_erased_while_turns_run_and_wait(deployment: Deployment, client: Client, erasing: Erasing):
    async with deployment.proc(KDCUBE_SLOTS="2"):
        before = await client.send(SECRET, conversation="talk-1")
        await client.ended(before.turn_id)
        running = await client.send(SECRET, conversation="talk-1", echo={"deltas": 500, "delay_ms": 100})
        waiting = await client.send(SECRET, conversation="talk-1")
        other = await client.send("what bob said", user="bob", echo={"deltas": 3})
        await client.until(running.turn_id, 3)
        await client.ended(other.turn_id)
        of_bob = await client.database.fetch("select x::text as whole from turns x where user_id = 'bob'")
        assert SECRET in await everything(client)

        erasure = await request(client, erasing)
        assert await terminal_state(client, running.turn_id) == "cancelled"
        receipt = await done(erasing, erasure)
        assert (receipt.conversations, receipt.turns) == (1, 3)
        left = await everything(client)
        assert SECRET not in left
        for turn in (before, running, waiting):
            assert turn.turn_id not in left
        assert "talk-1" in left  # its id alone: what slept is kept out by it
        assert await client.database.fetch("select x::text as whole from turns x where user_id = 'bob'") == of_bob

        again = await client.send("hello again", conversation="talk-1")
        assert await client.answer(again.turn_id) == "hello again"


async def terminal_state(client: Client, turn_id: str) -> str | None:
    """How the log of a turn ended, as far as it can still be read."""
    lines = await client.lines(turn_id)
    return terminal(lines)["state"] if "complete" in kinds(lines)[-1:] else None


async def test_a_crash_in_the_middle_is_made_good(deployment: Deployment, client: Client, erasing, eraser):
    async with deployment.proc():
        for number in range(3):
            turn = await client.send(SECRET, conversation=f"talk-{number}")
            await client.ended(turn.turn_id)
        epoch = await client.epoch()
    erasure = await request(client, erasing)
    failpoints.install("proc.erase.before_commit=error@2:1,proc.erase.before_close=error@1:1")
    with pytest.raises(InjectedFailure):
        await eraser.round(epoch)
    receipt = await erasing.get(erasure.erasure_id)
    assert receipt is not None
    assert (receipt.conversations, receipt.done_ms) == (1, None)
    with pytest.raises(InjectedFailure):
        await eraser.round(epoch)
    await eraser.round(epoch)
    receipt = await erasing.get(erasure.erasure_id)
    assert receipt is not None
    assert (receipt.conversations, receipt.turns) == (3, 3)
    assert receipt.done_ms is not None
    assert SECRET not in await everything(client)


async def test_a_worker_that_slept_brings_nothing_back(deployment: Deployment, client: Client, erasing, eraser):
    """It claimed a turn, slept, and wakes when its lease was taken and all is erased."""
    async with deployment.proc():
        epoch = await client.epoch()
    await Workers(client.connection, KEYS).beat("w", slots=1, info={})
    turn = await client.send(SECRET)
    (claim,) = await client.queue.claim(
        epoch=epoch, worker_id="w", revision="local", room={turn.bundle_id: 1}, claim_ids=["sleeper"]
    )
    erasure = (await erasing.request("ada", Actor("ada"), 1)).erasure
    await eraser.round(epoch)
    assert (await erasing.get(erasure.erasure_id)).done_ms is None  # a worker has it
    await client.queue.release(turn.turn_id, "sleeper", epoch=epoch)  # as the reaper does
    await eraser.round(epoch)  # takes it out of the queue,
    await eraser.round(epoch)  # and erases it
    assert (await erasing.get(erasure.erasure_id)).done_ms is not None
    start = StartRequest(claim.envelope, claim.order, claim.accepted_ms, claim.claim_id, "w", "1", epoch)
    assert await client.turns.start(start) == NotStarted(Refusal.REFUSED, None)
    assert SECRET not in await everything(client)


async def test_a_message_that_nobody_committed_is_taken_out(deployment: Deployment, client: Client, erasing, eraser):
    """Ingress died between Valkey and PostgreSQL."""
    async with deployment.proc():
        await client.ended((await client.send("first", conversation="talk")).turn_id)
        epoch = await client.epoch()
    await Workers(client.connection, KEYS).beat("w", slots=1, info={})
    await client.send(SECRET, conversation="talk", commit=False)
    erasure = (await erasing.request("ada", Actor("ada"), 1)).erasure
    await eraser.round(epoch)
    await eraser.round(epoch)
    assert (await erasing.get(erasure.erasure_id)).done_ms is not None
    assert SECRET not in await everything(client)


async def test_old_conversations_are_erased(deployment: Deployment, client: Client, erasing):
    async with deployment.proc():
        turn = await client.send(SECRET)
        await client.ended(turn.turn_id)
        epoch = await client.epoch()
    now = [time.time()]
    ticks = iter(range(0, 10_000, 1_000))
    eraser = Eraser(
        erasing=erasing,
        turns=client.turns,
        queue=client.queue,
        remains=Remains(client.connection, KEYS),
        clock=lambda: float(next(ticks)),
        wall_clock=lambda: now[0],
    )
    now[0] += 31 * 86_400
    await eraser.round(epoch)  # off by default
    eraser.retention_days = 32
    await eraser.round(epoch)
    assert SECRET in await everything(client)
    eraser.retention_days = 30
    await eraser.round(epoch)
    assert SECRET not in (await everything(client))
