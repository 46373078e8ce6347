"""Stores and procs that fail in mid-turn: what was accepted ends once, and what has started does not start again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.conftest import StoreServer
from tests.integration.proc.conftest import Client, Deployment, fold, kinds

from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.protocol.turns import TurnEnvelope, TurnState
from kdcube.telemetry import failpoints

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.install("")


async def _after_rebuild(client: Client, before: int) -> int:
    while True:
        with suppress(StoreUnavailable):
            epoch = await client.epoch()
            if epoch != before:
                return epoch
        await asyncio.sleep(0.02)


async def test_valkey_comes_back_empty_in_mid_turn(
    deployment: Deployment, client: Client, valkey_server: StoreServer
) -> None:
    async with deployment.proc():
        before = await client.epoch()
        running = await client.send("run", conversation="c1", echo={"deltas": 60, "delay_ms": 20, "text_bytes": 4})
        waiting = await client.send("wait", conversation="c1")
        await client.until(running.turn_id, 5)
        valkey_server.restart()
        await _after_rebuild(client, before)
        row = await client.ended(running.turn_id)
        assert (row.state, row.attempt) == (TurnState.COMPLETED, 1)
        lines = await client.lines(running.turn_id)
        assert kinds(lines)[0] == "snapshot"
        assert fold(running.turn_id, lines).text() == row.answer
        assert len(row.answer or "") == 60 * 4
        assert await client.answer(waiting.turn_id) == "wait"


async def test_queued_turns_survive_an_empty_valkey_in_their_order(
    deployment: Deployment, client: Client, valkey_server: StoreServer
) -> None:
    async with deployment.proc(KDCUBE_SLOTS="1"):
        before = await client.epoch()
        sent = [await client.send("block", user="a", echo={"deltas": 40, "delay_ms": 20})]
        sent += [await client.send(f"m{n}", user="a", conversation="c") for n in range(5)]
        valkey_server.restart()
        await _after_rebuild(client, before)
        rows = [await client.ended(turn.turn_id) for turn in sent]
        assert [row.state for row in rows] == [TurnState.COMPLETED] * 6
        assert [row.attempt for row in rows] == [1] * 6
        started = [row.started_ms or 0 for row in rows[1:]]
        assert started == sorted(started)


async def test_postgres_is_killed_in_mid_turn(
    deployment: Deployment, client: Client, postgres_server: StoreServer
) -> None:
    async with deployment.proc():
        turn = await client.send("run", echo={"deltas": 30, "delay_ms": 10, "text_bytes": 3})
        await client.until(turn.turn_id, 5)
        postgres_server.kill()
        await client.until(turn.turn_id, 31)
        postgres_server.restart()
        row = await client.ended(turn.turn_id)
        assert (row.state, row.attempt, len(row.answer or "")) == (TurnState.COMPLETED, 1, 90)


@pytest.mark.parametrize(
    "step",
    [
        "proc.claim.after",
        *(
            f"proc.{name}.{side}"
            for name in ("start", "open", "append", "finish", "close")
            for side in ("before", "after")
        ),
    ],
)
async def test_a_lost_reply_doubles_nothing(deployment: Deployment, client: Client, step: str) -> None:
    async with deployment.proc():
        failpoints.install(f"{step}=drop:1")
        turn = await client.send("one two three four")
        lines = await client.lines(turn.turn_id)
        row = await client.ended(turn.turn_id)
        assert failpoints.visits(step) >= 1
        assert (row.state, row.answer, row.attempt) == (TurnState.COMPLETED, "one two three four", 1)
        assert fold(turn.turn_id, lines).text() == "one two three four"
        assert kinds(lines).count("start") == 1


async def test_a_turn_waits_for_a_host_when_its_own_died_before_it_came(deployment: Deployment, client: Client) -> None:
    async with deployment.proc() as proc:
        failpoints.install("proc.open.after=pause")
        turn = await client.send("one two")
        while not failpoints.visits("proc.open.after"):
            await asyncio.sleep(0.01)
        (pid,) = proc.pool.status()[0].host_pids
        os.kill(pid, signal.SIGKILL)
        while proc.pool.status()[0].unavailable is None:
            await asyncio.sleep(0)
        failpoints.release("proc.open.after")
        row = await client.ended(turn.turn_id)
        assert (row.state, row.answer, row.attempt) == (TurnState.COMPLETED, "one two", 1)


async def test_a_second_proc_takes_over_the_maintenance(deployment: Deployment, client: Client) -> None:
    async with deployment.proc("proc-2"):
        async with deployment.proc("proc-1"):
            turn = await client.send("one")
            assert await client.answer(turn.turn_id) == "one"
        await client.connection.call("FLUSHALL")
        turn = await _send_when_open(client)
        assert await client.answer(turn.turn_id) == "again"


async def _send_when_open(client: Client) -> TurnEnvelope:
    while True:
        try:
            return await client.send("again")
        except (EpochMismatch, AssertionError):
            await asyncio.sleep(0.02)
