"""Stores that fail, replies that are lost, clients that leave: an accepted turn is never lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.ingress.asking import body, refused, sent

from kdcube.protocol.turns import TurnState
from kdcube.redis.epoch import WorkingState
from kdcube.telemetry import failpoints

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.install("")


async def test_without_postgres_the_outcome_is_unknown_and_the_same_key_then_succeeds(
    bench: Any, postgres_server: Any
) -> None:
    alice = await bench.client("alice-token")
    postgres_server.kill()
    try:
        response = await alice.post("/sse/chat", json=body(turn_id="t1"))
        told = refused(response, 503, "outcome_unknown")
        assert "same key" in told["message"] and "retry-after" in response.headers
    finally:
        postgres_server.restart()
    again = await sent(alice, turn_id="t1")
    assert again["duplicate"]
    assert (await bench.turns.get(again["task_id"])).state is TurnState.QUEUED
    assert (await bench.worker.run()).envelope.turn_id == again["task_id"]
    assert await bench.worker.claim() is None


@pytest.mark.parametrize("lost", ["ingress.accept.admitted", "ingress.accept.committed"])
async def test_a_reply_of_a_store_that_is_lost_doubles_nothing(bench: Any, lost: str) -> None:
    alice = await bench.client("alice-token")
    failpoints.install(f"{lost}=drop:1")
    refused(await alice.post("/sse/chat", json=body(turn_id="t1")), 503, "outcome_unknown")
    again = await sent(alice, turn_id="t1")
    assert again["duplicate"]
    assert (await bench.worker.run()).envelope.turn_id == again["task_id"]
    assert await bench.worker.claim() is None


async def test_an_interrupt_whose_commit_failed_still_interrupts(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    await bench.worker.start()
    failpoints.install("ingress.accept.admitted=drop:1")
    instead = {"conversation_id": first["conversation_id"], "policy": "interrupt", "turn_id": "t2"}
    refused(await alice.post("/sse/chat", json=body(**instead)), 503, "outcome_unknown")
    assert not (await bench.turns.get(first["task_id"])).cancel_requested
    assert (await sent(alice, **instead))["duplicate"]
    assert (await bench.turns.get(first["task_id"])).cancel_requested


@pytest.mark.parametrize("policy", ["enqueue", "steer"])
async def test_a_repeat_that_is_faster_than_the_commit_takes_nothing_from_the_first_answer(
    bench: Any, policy: str
) -> None:
    alice = await bench.client("alice-token")
    running = await sent(alice)
    await bench.worker.start()
    message = {"turn_id": "t1", "conversation_id": running["conversation_id"], "policy": policy}
    failpoints.install("ingress.accept.admitted=pause:1")
    sending = asyncio.create_task(sent(alice, **message))
    while not failpoints.visits("ingress.accept.admitted"):
        await asyncio.sleep(0)
    repeated = await sent(alice, **message)
    failpoints.release("ingress.accept.admitted")
    first = await sending
    assert repeated["duplicate"] and "duplicate" not in first
    assert (first["task_id"], first["position"]) == (repeated["task_id"], repeated["position"])
    assert first.get("receipt") == repeated.get("receipt")
    assert ("receipt" in first) == (policy == "steer")


async def test_a_worker_that_is_faster_than_the_commit(bench: Any) -> None:
    """The row is written by START; the accepting ingress finds it and attaches."""
    alice = await bench.client("alice-token")
    failpoints.install("ingress.accept.admitted=pause")
    sending = asyncio.create_task(sent(alice, turn_id="t1"))
    while not failpoints.visits("ingress.accept.admitted"):
        await asyncio.sleep(0)
    claim = await bench.worker.start()
    failpoints.release("ingress.accept.admitted")
    answer = await sending
    assert answer["task_id"] == claim.envelope.turn_id
    assert "duplicate" not in answer
    await bench.worker.end(claim)
    assert (await bench.turns.get(answer["task_id"])).state is TurnState.COMPLETED


async def test_a_client_that_leaves_after_its_body_was_read_changes_nothing(bench: Any) -> None:
    alice = await bench.client("alice-token")
    failpoints.install("ingress.accept.admitted=pause")
    sending = asyncio.create_task(alice.post("/sse/chat", json=body(turn_id="t1")))
    while not failpoints.visits("ingress.accept.admitted"):
        await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait({sending})
    failpoints.release("ingress.accept.admitted")
    while (turn := await bench.turns.find("alice", "t1")) is None:
        await asyncio.sleep(0.01)
    assert turn.state is TurnState.QUEUED


async def test_while_valkey_is_rebuilt_nothing_is_accepted(bench: Any) -> None:
    alice = await bench.client("alice-token")
    worker = bench.worker
    state = WorkingState(worker.queue._connection, worker.queue._keys)
    await state.begin(worker.epoch + 1)
    response = await alice.post("/sse/chat", json=body(turn_id="t1"))
    refused(response, 503, "rebuilding")
    assert "epoch" in (await alice.get("/ready")).json()["failing"]
    assert await bench.turns.find("alice", "t1") is None
    await state.publish(worker.epoch + 1, max_order=0, run_id="test")
    while (await alice.get("/ready")).status_code != 200:
        await asyncio.sleep(0.01)
    await sent(alice, turn_id="t1")


async def test_without_valkey_sending_is_unavailable_and_reading_is_not(bench: Any, valkey_server: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    valkey_server.kill()
    assert (await alice.post("/sse/chat", json=body())).status_code == 503
    url = f"/conversations/{first['conversation_id']}"
    assert (await alice.get(url)).status_code == 200
    assert (await alice.patch(url, json={"title": "new"})).status_code == 200
    assert (await alice.delete(url)).status_code == 200
