"""POST /sse/cancel and conv_status.get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.ingress.asking import refused, sent

from kdcube.protocol.turns import TurnState

pytestmark = pytest.mark.anyio


async def cancelled(client: Any, **body: str) -> str:
    response = await client.post("/sse/cancel", json=body)
    assert response.status_code == 200, response.text
    return response.json()["status"]


async def status(client: Any, conversation_id: str) -> dict[str, Any]:
    response = await client.post("/sse/conv_status.get", json={"conversation_id": conversation_id, "stream_id": "s"})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("by", ["task_id", "turn_id"])
async def test_a_queued_turn_is_cancelled_at_once_and_its_successor_goes_on(bench: Any, by: str) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="t1")
    second = await sent(alice, "next", conversation_id=first["conversation_id"])
    assert await cancelled(alice, turn_id=first[by]) == "cancelling"
    assert (await bench.turns.get(first["task_id"])).state is TurnState.CANCELLED
    assert (await bench.worker.start()).envelope.turn_id == second["task_id"]
    assert await cancelled(alice, turn_id=first[by]) == "already_ended"


async def test_a_running_turn_is_asked_to_stop(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    assert await cancelled(alice, turn_id=first["task_id"]) == "cancelling"
    assert (await bench.turns.get(first["task_id"])).cancel_requested
    assert await cancelled(alice, conversation_id=first["conversation_id"]) == "cancelling"
    await bench.worker.end(claim, TurnState.CANCELLED)
    assert await cancelled(alice, conversation_id=first["conversation_id"]) == "already_ended"


async def test_a_turn_that_waits_for_another_attempt_ends_as_the_one_before(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    assert await bench.turns.requeue(first["task_id"], claim.claim_id)
    await bench.worker.queue.release(first["task_id"], claim.claim_id, epoch=bench.worker.epoch)
    assert await cancelled(alice, turn_id=first["task_id"]) == "cancelling"
    response = await alice.get(f"/turns/{first['task_id']}/stream")
    *_, end = (json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line[:5] == "data:")
    assert (end["type"], end["data"]["state"], end["attempt"]) == ("chat.complete", "cancelled", 1)


async def test_a_conversation_is_cancelled_with_all_that_waits_in_it(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    more = [await sent(alice, f"m{n}", conversation_id=first["conversation_id"]) for n in range(3)]
    steer = await sent(alice, "steer", conversation_id=first["conversation_id"], policy="steer")
    assert await cancelled(alice, conversation_id=first["conversation_id"]) == "cancelling"
    states = await bench.turns.states([turn["task_id"] for turn in (*more, steer)])
    assert set(states.values()) == {TurnState.CANCELLED}
    await bench.worker.end(claim, TurnState.CANCELLED)
    assert await bench.worker.claim() is None
    assert await bench.turns.unfinished() == []


async def test_what_is_another_users_or_unknown_is_not_found(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    first = await sent(alice)
    for body in (
        {"turn_id": first["task_id"]},
        {"conversation_id": first["conversation_id"]},
        {"turn_id": "nothing"},
        {"conversation_id": "nothing"},
    ):
        refused(await bob.post("/sse/cancel", json=body), 404)
    refused(await bob.post("/sse/conv_status.get", json={"conversation_id": first["conversation_id"]}), 404)
    assert (await bench.turns.get(first["task_id"])).state is TurnState.QUEUED


@pytest.mark.parametrize("body", [{}, {"turn_id": "a", "conversation_id": "b"}, {"turn_id": "a b"}, {"turn_id": 1}])
async def test_a_bad_cancel_is_refused(bench: Any, body: dict[str, Any]) -> None:
    alice = await bench.client("alice-token")
    assert "turn_id" in refused(await alice.post("/sse/cancel", json=body), 400)["field"]


async def test_a_caller_without_credentials_cancels_nothing(bench: Any) -> None:
    refused(await (await bench.client()).post("/sse/cancel", json={"turn_id": "a"}), 401)


async def test_a_cancel_holds_without_valkey(bench: Any, valkey_server: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    valkey_server.kill()
    assert await cancelled(alice, turn_id=first["task_id"]) == "cancelling"
    assert (await bench.turns.get(first["task_id"])).state is TurnState.CANCELLED


async def test_the_status_of_a_conversation(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="t1")
    conversation_id = first["conversation_id"]
    told = await status(alice, conversation_id)
    assert told.pop("updated_at").endswith("+00:00")
    assert told == {
        "conversation_id": conversation_id,
        "state": "queued",
        "current_turn_id": "t1",
        "current_task_id": first["task_id"],
    }
    claim = await bench.worker.start()
    await sent(alice, conversation_id=conversation_id)
    told = await status(alice, conversation_id)
    assert (told["state"], told["current_task_id"]) == ("in_progress", first["task_id"])
    await bench.worker.end(claim)
    await bench.worker.run()
    told = await status(alice, conversation_id)
    assert (told["state"], told["current_turn_id"]) == ("idle", None)
