"""POST /sse/chat: what is accepted, under which ids, and what is refused without a trace."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.integration.ingress.asking import body, refused, sent

from kdcube.protocol.turns import TurnState

pytestmark = pytest.mark.anyio


async def nothing_admitted(bench: Any) -> None:
    assert await bench.turns.unfinished() == []
    assert await bench.worker.claim() is None


async def test_a_message_is_accepted_with_the_pinned_answer(bench: Any) -> None:
    alice = await bench.client("alice-token")
    answer = await sent(alice, turn_id="turn_1700000000000", bundle_id="other", payload={"a": [1]})
    assert answer["status"] == "processing_started"
    assert answer["turn_id"] == "turn_1700000000000"
    assert answer["user_type"] == "registered"
    assert answer["position"] == 1
    turn = await bench.turns.get(answer["task_id"], "alice")
    assert turn.state is TurnState.QUEUED
    assert (turn.conversation_id, turn.session_id) == (answer["conversation_id"], answer["session_id"])
    claim = await bench.worker.start()
    assert claim.envelope.payload == {"a": [1]}
    assert claim.envelope.bundle_id == "other"


async def test_it_is_served_under_the_prefix_as_well(bench: Any) -> None:
    alice = await bench.client("alice-token")
    response = await alice.post("/chatbot/api/sse/chat?stream_id=s1", json=body())
    assert response.status_code == 202


async def test_an_anonymous_sender_without_anything_gets_a_session_and_a_cookie(bench: Any) -> None:
    stranger = await bench.client()
    answer = await sent(stranger)
    assert answer["user_type"] == "anonymous"
    assert "kdcube_session" in stranger.cookies
    assert (await stranger.get("/profile")).json()["session_id"] == answer["session_id"]


@pytest.mark.parametrize("name", ["message", "text"])
async def test_both_names_of_the_text(bench: Any, name: str) -> None:
    alice = await bench.client("alice-token")
    response = await alice.post("/sse/chat", json={"message": {name: "hi there", "unknown": 1}})
    turn = await bench.turns.get(response.json()["task_id"])
    assert turn.message == "hi there"


async def test_a_form_carries_the_whole_body_in_its_field_message(bench: Any) -> None:
    alice = await bench.client("alice-token")
    response = await alice.post("/sse/chat", files={"message": (None, json.dumps(body("grüß")))})
    assert response.status_code == 202
    assert (await bench.turns.get(response.json()["task_id"])).message == "grüß"


async def test_a_form_with_files_is_refused(bench: Any) -> None:
    alice = await bench.client("alice-token")
    form = {"message": (None, json.dumps(body())), "files": ("a.txt", b"x")}
    refused(await alice.post("/sse/chat", files=form), 400, "attachments_not_supported")
    await nothing_admitted(bench)


BAD: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("malformed", {"content": b'{"message": '}, 400, "body"),
    ("empty", {"content": b""}, 400, "body"),
    ("no object", {"content": b"[]"}, 400, "body"),
    ("no message", {"content": b"{}"}, 400, "body"),
    ("a number as text", {"json": {"message": {"text": 5}}}, 400, "message.text"),
    ("an empty message", {"json": body("")}, 400, "message.text"),
    ("invalid UTF-8", {"content": b'{"message": {"text": "\xff"}}'}, 400, "body"),
    ("a lone surrogate", {"content": b'{"message": {"text": "\\ud800"}}'}, 400, "body"),
    ("too deep", {"content": b'{"message": {"payload": ' + b'{"a":' * 3000 + b"1" + b"}" * 3002}, 400, "body"),
    ("an over-long text", {"json": body("x" * 100_001)}, 400, "message.text"),
    ("an unknown bundle", {"json": body(bundle_id="nobody")}, 400, "message.bundle_id"),
    ("an unknown policy", {"json": body(policy="shout")}, 400, "message.policy"),
    ("a bad turn id", {"json": body(turn_id="a b")}, 400, "message.turn_id"),
    ("a bad conversation id", {"json": body(conversation_id="x" * 129)}, 400, "message.conversation_id"),
    ("a control character", {"json": body(conversation_id="a\x1fb")}, 400, "message.conversation_id"),
    ("a bad key", {"json": body(), "headers": {"Idempotency-Key": "k k"}}, 400, "Idempotency-Key"),
    ("a large payload", {"json": body(payload={"a": "x" * 70_000})}, 400, "message.payload"),
    ("a huge integer", {"json": body(payload={"a": 2**70})}, 400, "message.payload"),
    ("a body over the limit", {"content": b'{"message": {"text": "' + b"x" * 1_100_000 + b'"}}'}, 413, None),
    ("a foreign parent", {"json": body(conversation_id="c", parent_turn_id="t")}, 404, "message.parent_turn_id"),
    ("a form without message", {"files": {"x": (None, "y")}}, 400, "message"),
    ("a form of bad UTF-8", {"files": {"message": (None, b'{"message": {"text": "\xff"}}')}}, 400, "message"),
    ("no form", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "body"),
    ("a cut form", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, None),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad_input_is_refused_in_the_pinned_shape(
    bench: Any, request_: dict[str, Any], status: int, field: str | None
) -> None:
    alice = await bench.client("alice-token")
    told = refused(await alice.post("/sse/chat", **request_), status)
    assert field is None or told["field"] == field
    await nothing_admitted(bench)


async def test_an_unknown_bundle_is_told_which_there_are(bench: Any) -> None:
    alice = await bench.client("alice-token")
    told = refused(await alice.post("/sse/chat", json=body(bundle_id="nobody")), 400)
    assert "echo, members, other" in told["message"]


async def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(bench: Any) -> None:
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield b"x" * 65536

    alice = await bench.client("alice-token")
    refused(await alice.post("/sse/chat", content=endless()), 413, "too_large")
    assert read < 30


async def test_a_bundle_may_ask_for_a_type_of_users(bench: Any) -> None:
    stranger, alice = await bench.client(), await bench.client("alice-token")
    refused(await stranger.post("/sse/chat", json=body(bundle_id="members")), 403, "bundle_not_allowed")
    await sent(alice, bundle_id="members")


# --- idempotency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["turn_id", "key"])
async def test_the_same_send_twice_at_once_is_one_turn(bench: Any, by: str) -> None:
    alice = await bench.client("alice-token")
    request = {"json": body(turn_id="t1")} if by == "turn_id" else {"json": body(), "headers": {"Idempotency-Key": "k"}}
    answers = await asyncio.gather(*(alice.post("/sse/chat", **request) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({(a.json()["task_id"], a.json()["turn_id"], a.json()["conversation_id"]) for a in answers}) == 1
    assert len(await bench.turns.unfinished()) == 1
    assert sum("duplicate" in answer.json() for answer in answers) == 3


async def test_other_content_under_the_same_key_is_a_conflict(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="t1")
    refused(await alice.post("/sse/chat", json=body("other", turn_id="t1")), 409, "idempotency_conflict")
    assert [item.turn.turn_id for item in await bench.turns.unfinished()] == [first["task_id"]]


async def test_a_key_belongs_to_its_user(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    assert (await sent(alice, turn_id="t1"))["task_id"] != (await sent(bob, turn_id="t1"))["task_id"]


async def test_a_repeat_of_a_turn_that_ended_attaches_to_it(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="t1")
    await bench.worker.run()
    again = await sent(alice, turn_id="t1")
    assert again["duplicate"] and again["task_id"] == first["task_id"]
    assert again["conversation_id"] == first["conversation_id"]
    refused(await alice.post("/sse/chat", json=body("other", turn_id="t1")), 409, "idempotency_conflict")
    assert await bench.worker.claim() is None


async def test_a_repeat_of_a_turn_that_only_postgres_remembers(bench: Any) -> None:
    """Valkey keeps keys for a day, PostgreSQL for ever: the new admission is taken back."""
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="t1")
    await bench.worker.run()
    worker = bench.worker
    keys = worker.queue._keys
    await worker.queue._connection.call("DEL", keys.done(first["task_id"]))
    again = await sent(alice, turn_id="t1")
    assert again["duplicate"] and again["task_id"] == first["task_id"]
    assert await worker.claim() is None
    await worker.queue._connection.call("DEL", keys.done(first["task_id"]))
    refused(await alice.post("/sse/chat", json=body("other", turn_id="t1")), 409, "idempotency_conflict")
    assert await worker.claim() is None


async def test_a_repeat_of_a_turn_that_a_rebuilt_valkey_has_forgotten_is_not_announced_again(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="t1")
    await bench.worker.run()
    worker = bench.worker
    call, keys = worker.queue._connection.call, worker.queue._keys
    await worker.rebuild()
    again = await sent(alice, turn_id="t1")
    assert again["duplicate"] and again["task_id"] == first["task_id"]
    refused(await alice.post("/sse/chat", json=body("other", turn_id="t1")), 409, "idempotency_conflict")
    assert await call("EXISTS", keys.feed("alice")) == 0
    await sent(alice, turn_id="t2")
    assert (await worker.run()).envelope.client_turn_id == "t2"
    assert await worker.claim() is None


# --- policies ---------------------------------------------------------------------------------------------------------


async def test_enqueue_waits_for_the_conversation(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    second = await sent(alice, "next", conversation_id=first["conversation_id"])
    assert second["position"] >= 1
    assert await bench.worker.claim() is None
    await bench.worker.end(claim)
    assert (await bench.worker.start()).envelope.turn_id == second["task_id"]


async def test_reject_refuses_a_busy_conversation(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    busy = body("no", conversation_id=first["conversation_id"], policy="reject", turn_id="t2")
    told = refused(await alice.post("/sse/chat", json=busy), 409, "conversation_busy")
    assert told["retry_after_s"] >= 1
    await bench.worker.run()
    assert (await alice.post("/sse/chat", json=busy)).status_code == 202  # a refusal does not consume the key


async def test_steer_reaches_the_running_turn_with_a_receipt(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    steer = await sent(alice, "faster", conversation_id=first["conversation_id"], policy="steer")
    assert steer["receipt"] == {"id": steer["task_id"], "state": "accepted"}
    assert (await bench.turns.get(steer["task_id"])).state is TurnState.STEERING
    await bench.worker.end(claim)
    assert (await bench.worker.start()).envelope.turn_id == steer["task_id"]  # bounced


async def test_steer_of_an_idle_conversation_is_a_turn(bench: Any) -> None:
    alice = await bench.client("alice-token")
    assert "receipt" not in await sent(alice, policy="steer")
    assert await bench.worker.start() is not None


async def test_interrupt_of_a_queued_turn_ends_it(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    second = await sent(alice, "instead", conversation_id=first["conversation_id"], policy="interrupt")
    assert (await bench.turns.get(first["task_id"])).state is TurnState.CANCELLED
    assert (await bench.worker.start()).envelope.turn_id == second["task_id"]


async def test_interrupt_of_a_running_turn_asks_it_to_stop(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    second = await sent(alice, "instead", conversation_id=first["conversation_id"], policy="interrupt")
    assert (await bench.turns.get(first["task_id"])).cancel_requested
    await bench.worker.end(claim, TurnState.CANCELLED)
    assert (await bench.worker.start()).envelope.turn_id == second["task_id"]


@pytest.mark.parametrize("policy", ["enqueue", "steer", "interrupt", "reject"])
async def test_ten_messages_at_once_under_each_policy(bench: Any, policy: str) -> None:
    """Each is accepted or refused, and the conversation runs them one by one."""
    alice = await bench.client("alice-token")
    answers = await asyncio.gather(
        *(
            alice.post("/sse/chat", json=body(f"m{n}", conversation_id="c1", policy=policy, turn_id=f"t{n}"))
            for n in range(10)
        )
    )
    accepted = [answer.json()["task_id"] for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len(accepted) == (1 if policy == "reject" else 10)
    ran: list[str] = []
    while claim := await bench.worker.start():
        ran.append(claim.envelope.turn_id)
        assert await bench.worker.claim() is None
        await bench.worker.end(claim)
    states = await bench.turns.states(accepted)
    assert set(states.values()) <= {TurnState.COMPLETED, TurnState.CANCELLED}
    assert {turn for turn, state in states.items() if state is TurnState.COMPLETED} == set(ran)
    if policy != "interrupt":
        assert len(ran) == len(accepted)


async def test_a_conversation_of_another_user_does_not_exist(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    first = await sent(alice)
    foreign = body("mine?", conversation_id=first["conversation_id"], turn_id="b1")
    refused(await bob.post("/sse/chat", json=foreign), 404, "conversation_not_found")  # Valkey knows it
    await bench.worker.run()
    refused(await bob.post("/sse/chat", json=foreign), 404, "conversation_not_found")  # PostgreSQL does
    assert await bench.worker.claim() is None
    assert await bench.turns.find("bob", "b1") is None


# --- edits ------------------------------------------------------------------------------------------------------------


async def test_an_edit_is_a_sibling(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, turn_id="one")
    conversation_id = first["conversation_id"]
    await bench.worker.run()
    second = await sent(alice, "two", conversation_id=conversation_id)
    await bench.worker.run()
    edited = await sent(alice, "two, better", conversation_id=conversation_id, parent_turn_id="one")
    await bench.worker.run()
    assert (await bench.turns.get(edited["task_id"])).parent_turn_id == first["task_id"]
    assert (await bench.turns.get(second["task_id"])).parent_turn_id == first["task_id"]
    root = await sent(alice, "one, better", conversation_id=conversation_id, parent_turn_id="root")
    await bench.worker.run()
    assert (await bench.turns.get(root["task_id"])).parent_turn_id is None
    view = (await alice.get(f"/conversations/{conversation_id}")).json()
    assert [turn["message"] for turn in view["turns"]] == ["one, better"]
    assert set(view["turns"][0]["siblings"]) == {first["task_id"], root["task_id"]}


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_pressure_and_rates_are_told_with_a_time_to_come_back(bench_with: Any) -> None:
    gateway = {
        "tenant": "local",
        "project": "main",
        "rate_limits": {"registered": {"hourly": -1, "burst": 2, "burst_window": 60}},
        "limits": {"proc": {"max_queue_size": 3}},
    }
    bench = await bench_with(GATEWAY_CONFIG_JSON=json.dumps(gateway))
    alice, root = await bench.client("alice-token"), await bench.client("root-token")
    await sent(alice)
    await sent(alice)
    response = await alice.post("/sse/chat", json=body())
    told = refused(response, 429, "rate_limit_burst")
    assert 1 <= told["retry_after_s"] <= 60
    assert response.headers["retry-after"] == str(told["retry_after_s"])
    await sent(root)
    response = await root.post("/sse/chat", json=body())
    told = refused(response, 503, "queue_full")
    assert response.headers["retry-after"] == str(told["retry_after_s"])
    await bench.worker.workers.leave("w1")
    refused(await root.post("/sse/chat", json=body()), 503, "no_capacity")
