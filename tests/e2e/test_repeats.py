"""The same message sent more than once, at both ingress processes: it is one turn."""

from __future__ import annotations

import asyncio

import pytest
from tests.chaos.history import History
from tests.e2e.client import state

pytestmark = pytest.mark.anyio

BY = {"key": {"key": "k-1"}, "turn_id": {"turn_id": "turn_1700000000000"}}


def ids(response):
    told = response.json()
    return told["task_id"], told["turn_id"], told["conversation_id"]


@pytest.mark.parametrize("by", BY)
async def test_twice_at_once_is_one_turn(trial_stack, connect, gate, tmp_path, by):
    client = connect(trial_stack)
    trial = {"hold": str(gate), "record": str(tmp_path / "ran")}
    answers = await asyncio.gather(*(client.send("hello", at=n, trial=trial, **BY[by]) for n in range(6)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({ids(answer) for answer in answers}) == 1
    assert sum("duplicate" not in answer.json() for answer in answers) == 1
    running = await client.send("hello", at=1, trial=trial, **BY[by])
    assert (ids(running), running.json()["duplicate"]) == (ids(answers[0]), True)
    gate.open()
    turn, _, conversation = ids(answers[0])
    assert state(await client.ended(turn)) == "completed"
    ended = await client.send("hello", trial=trial, **BY[by])
    assert (ids(ended), ended.json()["duplicate"]) == (ids(answers[0]), True)
    history = History()
    history.sent("hello", conversation, "hello", ended)
    await history.collect(client, [conversation], tmp_path / "ran")
    history.check()
    assert history.began() == [turn]
    assert len((await client.ask("GET", "/conversations")).json()["items"]) == 1


OTHER = {
    "text": {"text": "something else"},
    "payload": {"echo": {"deltas": 1}},
    "policy": {"policy": "reject"},
    "bundle": {"bundle_id": "echo@1.0.0"},
    "conversation": {"conversation_id": "another"},
}


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("by", BY)
async def test_another_content_under_the_same_key_is_a_conflict(trial_stack, connect, gate, by, other):
    client = connect(trial_stack)
    orders = {"trial": {"hold": str(gate)}}
    first = await client.send("hello", **orders, **BY[by])
    turn = first.json()["task_id"]
    different = {"text": "hello", **orders, **BY[by], **OTHER[other]}
    for when in ("while it runs", "after its end"):
        refused = await client.send(at=1, **different)
        assert refused.status_code == 409, when
        assert refused.json()["error"] == "idempotency_conflict"
        gate.open()
        assert state(await client.ended(turn)) == "completed"
    assert len((await client.ask("GET", "/conversations")).json()["items"]) == 1


async def test_two_contents_at_once_under_one_key_are_one_turn_and_conflicts(trial_stack, connect):
    client = connect(trial_stack)
    answers = await asyncio.gather(*(client.send(f"content-{n}", at=n, key="k") for n in range(8)))
    taken = [answer for answer in answers if answer.status_code == 202]
    assert len(taken) == 1
    assert {answer.json()["error"] for answer in answers if answer not in taken} == {"idempotency_conflict"}
    turn, _, conversation = ids(taken[0])
    await client.ended(turn)
    assert list(await client.stored(conversation)) == [turn]


async def test_the_same_key_of_two_users_is_two_turns(trial_stack, connect):
    one, other = connect(trial_stack), connect(trial_stack)
    answers = await asyncio.gather(one.send("mine", key="k"), other.send("mine as well", at=1, key="k"))
    assert {answer.status_code for answer in answers} == {202}
    assert ids(answers[0])[0] != ids(answers[1])[0]


async def test_without_a_key_every_message_is_its_own(trial_stack, connect):
    client = connect(trial_stack)
    answers = await asyncio.gather(client.send("hello"), client.send("hello", at=1))
    assert len({ids(answer) for answer in answers}) == 2


async def test_an_interrupt_that_is_sent_twice_interrupts_once(trial_stack, connect, conversation, gate):
    client = connect(trial_stack)
    first = await client.sent("first", conversation_id=conversation, trial={"hold": str(gate)})
    again = {"key": "k", "conversation_id": conversation, "policy": "interrupt", "trial": {"hold": str(gate)}}
    answers = await asyncio.gather(*(client.send("second", at=n, **again) for n in range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({ids(answer) for answer in answers}) == 1
    assert state(await client.ended(first["task_id"])) == "cancelled"
    assert (await client.send("second", at=1, **again)).json()["duplicate"]
    gate.open()
    assert state(await client.ended(ids(answers[0])[0])) == "completed"


async def test_a_steer_that_is_sent_twice_is_applied_once(trial_stack, connect, conversation, gate):
    client = connect(trial_stack)
    first = await client.sent("first", conversation_id=conversation, trial={"hold": str(gate)})
    async with client.turn_stream(first["task_id"]) as stream:
        await stream.until(lambda event: event.name == "chat_delta")
        steer = {"key": "k", "conversation_id": conversation, "policy": "steer"}
        answers = await asyncio.gather(*(client.send("steer", at=n, **steer) for n in range(4)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({ids(answer) for answer in answers}) == 1
        assert {answer.json()["receipt"]["state"] for answer in answers} <= {"accepted", "applied"}
        await stream.until(lambda event: event.text == "[steer: steer]")
    again = await client.send("steer", at=1, **steer)
    assert (again.json()["duplicate"], again.json()["receipt"]["state"]) == (True, "applied")
    gate.open()
    ended = await client.ended(first["task_id"])
    assert ended[-1].data["data"]["answer"] == "first[steer: steer]"
