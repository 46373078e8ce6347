"""Turns through a whole proc: what is claimed runs, streams, ends once, and is stored complete."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tests.integration.proc.bundles.conftest import echo_as
from tests.integration.proc.conftest import ECHO, Client, Deployment, fold, kinds, terminal

from kdcube.protocol.events import Fold, decode_body
from kdcube.protocol.turns import Policy, TurnState

pytestmark = pytest.mark.anyio


async def test_a_turn_streams_and_is_stored(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send("the quick brown fox")
        lines = await client.lines(turn.turn_id)
        assert kinds(lines)[0] == "start"
        assert kinds(lines)[-1] == "complete"
        assert kinds(lines).count("complete") == 1
        assert terminal(lines)["state"] == "completed"
        assert terminal(lines)["answer"] == "the quick brown fox"
        row = await client.ended(turn.turn_id)
        assert (row.state, row.answer, row.attempt) == (TurnState.COMPLETED, "the quick brown fox", 1)
        assert row.bundle_version


async def test_history_is_the_path_to_the_turn(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        first = await client.send("one", conversation="c1")
        second = await client.send("two", conversation="c1")
        assert await client.answer(first.turn_id) == "one"
        assert await client.answer(second.turn_id) == "two"
        row = await client.ended(second.turn_id)
        assert row.parent_turn_id == first.turn_id


async def test_one_running_turn_a_conversation(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        sent = [await client.send(f"m{n}", conversation="c1") for n in range(6)]
        rows = [await client.ended(turn.turn_id) for turn in sent]
        assert [row.answer for row in rows] == [f"m{n}" for n in range(6)]
        for before, after in pairwise(rows):
            assert before.ended_ms is not None
            assert after.started_ms is not None
            assert before.ended_ms <= after.started_ms + 1000  # two clocks; order is what the rows' parents say
            assert after.parent_turn_id == before.turn_id


async def test_a_bundle_that_fails(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(echo={"deltas": 2, "fail": True})
        row = await client.ended(turn.turn_id)
        assert row.state is TurnState.FAILED
        assert row.error is not None
        assert kinds(await client.lines(turn.turn_id))[-1] == "error"


async def test_a_host_that_crashes_interrupts_its_turns(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(echo={"deltas": 5, "crash_after": 3, "delay_ms": 1})
        row = await client.ended(turn.turn_id)
        assert row.state is TurnState.INTERRUPTED
        assert row.attempt == 1
        following = await client.send("again", conversation=turn.conversation_id)
        assert await client.answer(following.turn_id) == "again"


async def test_a_bundle_that_allows_it_gets_another_attempt(deployment: Deployment, client: Client) -> None:
    async with deployment.proc(max_attempts=2):
        turn = await client.send("x", echo={"deltas": 4, "crash_after": 2, "delay_ms": 1})
        lines = await client.lines(turn.turn_id)
        starts = [decode_body(line) for line in lines if line.startswith(b"start ")]
        assert [(start["attempt"], start.get("supersedes")) for start in starts] == [(1, None), (2, 1)]
        row = await client.ended(turn.turn_id)
        assert (row.state, row.attempt) == (TurnState.INTERRUPTED, 2)
        assert kinds(lines)[-1] == "error"
        assert fold(turn.turn_id, lines).text() == row.answer


async def test_another_attempt_is_given_the_steers_of_the_last(deployment: Deployment, client: Client) -> None:
    async with deployment.proc(max_attempts=2):
        turn = await client.send("x", conversation="c1", echo={"deltas": 30, "crash_after": 29, "delay_ms": 20})
        await client.until(turn.turn_id, 2)
        steer = await client.send("hello", conversation="c1", policy=Policy.STEER)
        row = await client.ended(turn.turn_id)
        assert row.attempt == 2
        assert (row.answer or "").count("[steer: hello]") == 1
        assert await client.receipts(steer.turn_id) == ["accepted", "seen", "applied"]


async def test_what_is_cancelled_between_two_attempts_keeps_its_text(deployment: Deployment, client: Client) -> None:
    async with deployment.proc(max_attempts=2) as proc:
        turn = await client.send("x", echo={"deltas": 1000, "delay_ms": 10})
        await client.until(turn.turn_id, 4)
        await client.turns.cancel(turn.turn_id, "ada", 1)
        os.kill(proc.pool.status()[0].host_pids[0], signal.SIGKILL)
        row = await client.ended(turn.turn_id)
        assert (row.state, row.attempt) == (TurnState.CANCELLED, 1)
        assert (row.answer or "").startswith("0 1 2 ")


async def test_cancel_while_it_runs(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(echo={"deltas": 10_000, "delay_ms": 20})
        await client.until(turn.turn_id, 3)
        await client.turns.cancel(turn.turn_id, "ada", 1)
        assert await client.queue.cancel(turn.turn_id, epoch=await client.epoch())
        row = await client.ended(turn.turn_id)
        assert row.state is TurnState.CANCELLED


async def test_a_cancel_that_was_only_committed_is_carried_out(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(echo={"deltas": 10_000, "delay_ms": 20})
        await client.until(turn.turn_id, 3)
        await client.turns.cancel(turn.turn_id, "ada", 1)
        assert (await client.ended(turn.turn_id)).state is TurnState.CANCELLED


async def test_interrupt_runs_after_the_cancel(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(conversation="c1", echo={"deltas": 10_000, "delay_ms": 20})
        await client.until(turn.turn_id, 3)
        waiting = await client.send("later", conversation="c1")
        urgent = await client.send("now", conversation="c1", policy=Policy.INTERRUPT)
        assert (await client.ended(turn.turn_id)).state is TurnState.CANCELLED
        assert (await client.ended(urgent.turn_id)).parent_turn_id == turn.turn_id
        assert (await client.ended(waiting.turn_id)).parent_turn_id == urgent.turn_id


async def test_a_steer_is_applied(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(conversation="c1", echo={"deltas": 10_000, "delay_ms": 10})
        await client.until(turn.turn_id, 3)
        steer = await client.send("hello there", conversation="c1", policy=Policy.STEER)
        while "[steer: hello there]" not in (await _text_so_far(client, turn.turn_id)):
            await client.until(turn.turn_id, (await client.logs.read(turn.turn_id)).tail + 1)
        await client.turns.cancel(turn.turn_id, "ada", 1)
        await client.queue.cancel(turn.turn_id, epoch=await client.epoch())
        await client.ended(turn.turn_id)
        row = await client.turns.get(steer.turn_id)
        assert row is not None
        assert row.state is TurnState.APPLIED
        assert await client.receipts(steer.turn_id) == ["accepted", "seen", "applied"]


async def test_a_steer_that_comes_too_late_is_the_next_turn(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send(conversation="c1", echo={"block_s": 0.5, "deltas": 1})
        await client.until(turn.turn_id, 1)
        steer = await client.send("and this", conversation="c1", policy=Policy.STEER)
        await client.ended(turn.turn_id)
        # Whether the bundle looks into its inbox once more before it ends is a matter of timing; being lost is not.
        receipts = await client.receipts_until(steer.turn_id, {"applied", "bounced"})
        if receipts[-1] == "bounced":
            assert (await client.ended(steer.turn_id)).state is TurnState.COMPLETED


async def test_no_turn_outlasts_the_limit_of_the_installation(deployment: Deployment, client: Client) -> None:
    async with deployment.proc(CHAT_TASK_TIMEOUT_SEC="1"):
        turn = await client.send(echo={"deltas": 100_000, "delay_ms": 10})
        row = await client.ended(turn.turn_id)
        assert row.state is TurnState.INTERRUPTED
        assert row.error is not None
        assert row.error["code"] in ("wall_limit", "idle_limit")


async def test_drain_finishes_what_fits_and_hands_back_the_rest(deployment: Deployment, client: Client) -> None:
    async with deployment.proc() as proc:
        running = await client.send("slow", echo={"deltas": 30, "delay_ms": 10})
        await client.until(running.turn_id, 2)
        queued = [await client.send(f"q{n}", user=f"u{n}") for n in range(8)]
        await proc.drain()
        assert (await client.ended(running.turn_id)).state is TurnState.COMPLETED
    async with deployment.proc("proc-2"):
        for turn in queued:
            assert (await client.ended(turn.turn_id)).state is TurnState.COMPLETED


async def test_drain_interrupts_what_does_not_finish(deployment: Deployment, client: Client) -> None:
    async with deployment.proc(PROC_CONTAINER_STOP_TIMEOUT_SEC="1") as proc:
        turn = await client.send(echo={"deltas": 100_000, "delay_ms": 20})
        await client.until(turn.turn_id, 2)
        await proc.drain()
        assert (await client.ended(turn.turn_id)).state is TurnState.INTERRUPTED


async def test_turns_whose_rows_were_never_written_run(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        turn = await client.send("no row yet", commit=False)
        row = await client.ended(turn.turn_id)
        assert row.state is TurnState.COMPLETED


async def test_many_turns_of_many_users(deployment: Deployment, client: Client) -> None:
    async with deployment.proc():
        sent = await asyncio.gather(*(client.send(f"hello {n}", user=f"u{n % 7}") for n in range(60)))
        answers = await asyncio.gather(*(client.answer(turn.turn_id) for turn in sent))
        assert answers == [f"hello {n}" for n in range(60)]


async def _text_so_far(client: Client, turn_id: str) -> str:
    fold = Fold(turn_id)
    while True:
        page = await client.logs.read(turn_id, fold.offset)
        if not page.lines:
            return fold.text()
        fold.add_all(page.lines)


async def test_a_bundle_whose_turns_hang_leaves_slots_to_others(
    deployment: Deployment, client: Client, tmp_path: Path
) -> None:
    folders = {"echo@1.0.0": ECHO, "other@1": echo_as("other@1", tmp_path)}
    registry = {"bundles": {bundle_id: {"path": folder} for bundle_id, folder in folders.items()}}
    async with deployment.proc(AGENTIC_BUNDLES_JSON=json.dumps(registry)) as proc:  # of four slots
        assert await client.answer((await client.send("one", bundle="other@1")).turn_id) == "one"
        hang = {"deltas": 2, "delay_ms": 3_600_000}
        hanging = [await client.send(user=f"user-{n}", echo=hang) for n in range(6)]
        for turn in hanging[:3]:
            await client.until(turn.turn_id, 2)
        for n in range(3):
            turn = await client.send(f"two {n}", bundle="other@1", user=f"another-{n}")
            assert await client.answer(turn.turn_id) == f"two {n}"
        assert proc.worker.running == 3 and await client.queue.waiting() == 3
