"""Cancels before, during and after a turn, at the other ingress process than the one that took it."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.client import answer, state, told_end_of

pytestmark = pytest.mark.anyio

WORDS = "one two three"


async def test_a_turn_that_waits_ends_at_once_and_what_runs_goes_on(trial_stack, connect, conversation, gate, tmp_path):
    client = connect(trial_stack)
    record = tmp_path / "ran"
    first = await client.sent(WORDS, conversation_id=conversation, trial={"hold": str(gate)})
    waiting = [
        await client.sent(WORDS, conversation_id=conversation, trial={"record": str(record)}, at=n) for n in range(3)
    ]
    async with client.user_stream() as tab, client.turn_stream(waiting[1]["task_id"]) as stream:
        await stream.until(lambda event: event.type == "queue.position")
        assert await client.cancel(turn_id=waiting[1]["turn_id"], at=1) == "cancelling"
        (end,) = [event for event in await stream.rest() if event.offset is not None]
        assert (end.name, end.data["data"]["state"], end.data["data"]["answer"]) == ("chat_complete", "cancelled", "")
        await tab.until(told_end_of(waiting[1]["task_id"]))
        gate.open()
        await tab.until(told_end_of(first["task_id"], waiting[0]["task_id"], waiting[2]["task_id"]))
    stored = await client.stored(conversation)
    assert [stored[turn["task_id"]]["state"] for turn in (first, *waiting)] == [
        "completed",
        "completed",
        "cancelled",
        "completed",
    ]
    assert waiting[1]["task_id"] not in record.read_text()


@pytest.mark.parametrize("by", ["turn_id", "task_id", "conversation_id"])
async def test_a_running_turn_stops_with_what_it_has_said(trial_stack, connect, conversation, gate, by):
    client = connect(trial_stack)
    orders = {"hold": str(gate), "hold_after": 2}
    turn = await client.sent(WORDS, turn_id="named", conversation_id=conversation, trial=orders)
    async with client.turn_stream(turn["task_id"]) as stream:
        await stream.until(lambda event: event.text == "two ")
        what = {"conversation_id" if by == "conversation_id" else "turn_id": turn[by]}
        assert await client.cancel(**what, at=1) == "cancelling"
        events = await stream.rest()
    assert (events[-1].name, state(events)) == ("chat_complete", "cancelled")
    assert answer(events) == events[-1].data["data"]["answer"] == "one two "
    assert (await client.stored(conversation))[turn["task_id"]]["answer"] == "one two "
    assert await client.cancel(**what) == "already_ended"


async def test_a_cancelled_conversation_stops_and_forgets_what_waited(
    trial_stack, connect, conversation, gate, tmp_path
):
    client = connect(trial_stack)
    orders = {"hold": str(gate), "record": str(tmp_path / "ran")}
    turns = [await client.sent(WORDS, conversation_id=conversation, trial=orders, at=n) for n in range(4)]
    async with client.turn_stream(turns[0]["task_id"]) as stream:
        await stream.until(lambda event: event.name == "chat_delta")
    assert await client.cancel(conversation_id=conversation, at=1) == "cancelling"
    assert [state(await client.ended(turn["task_id"])) for turn in turns] == ["cancelled"] * 4
    assert (tmp_path / "ran").read_text().count("begin") == 1
    next_one = await client.sent("next", conversation_id=conversation)
    assert answer(await client.ended(next_one["task_id"])) == "next"


async def test_an_ended_turn_stays_as_it_is(trial_stack, connect):
    client = connect(trial_stack)
    turn = await client.sent(WORDS)
    whole = await client.ended(turn["task_id"])
    assert await client.cancel(turn_id=turn["task_id"]) == "already_ended"
    assert await client.cancel(conversation_id=turn["conversation_id"], at=1) == "already_ended"
    assert await client.ended(turn["task_id"], at=1) == whole


async def test_ten_cancels_at_once_are_one_end(trial_stack, connect, gate):
    client = connect(trial_stack)
    turn = await client.sent(WORDS, trial={"hold": str(gate)})
    async with client.turn_stream(turn["task_id"]) as stream:
        await stream.until(lambda event: event.name == "chat_delta")
        statuses = await asyncio.gather(*(client.cancel(turn_id=turn["task_id"], at=n) for n in range(10)))
        events = await stream.rest()
    assert set(statuses) <= {"cancelling", "already_ended"}
    assert [event.ends_turn for event in events].count(True) == 1
    assert state(events) == "cancelled"


async def test_a_cancel_races_with_the_end(trial_stack, connect):
    """Whichever comes first, the stream, the store and every reader agree."""
    client = connect(trial_stack)

    async def race(n: int) -> None:
        turn = await client.sent(WORDS, at=n)
        await client.cancel(turn_id=turn["task_id"], at=n + 1)
        one, other = await asyncio.gather(client.ended(turn["task_id"]), client.ended(turn["task_id"], at=1))
        assert one == other
        stored = (await client.stored(turn["conversation_id"]))[turn["task_id"]]
        assert stored["state"] == state(one) in ("completed", "cancelled")
        assert stored["answer"] == one[-1].data["data"]["answer"] == answer(one)

    await asyncio.gather(*(race(n) for n in range(12)))


async def test_what_does_not_exist_is_not_found(trial_stack, connect):
    client = connect(trial_stack)
    for what in ({"turn_id": "nothing"}, {"conversation_id": "nothing"}):
        response = await client.ask("POST", "/sse/cancel", json=what)
        assert (response.status_code, response.json()["error"]) == (404, "not_found")
