"""Ten messages at once for one conversation, under each policy: who runs, in which order, and who hears what."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.chaos.history import History
from tests.e2e.client import Client, Gate, answer, is_mark

pytestmark = pytest.mark.anyio


class Trial:
    """A conversation, what is sent to it, and all that its user's stream and the bundle tell of it."""

    def __init__(self, client: Client, conversation: str, record: Path) -> None:
        self.client = client
        self.history = History()
        self.seen = self.history.view("user")
        self.conversation = conversation
        self._record = record

    async def watch(self) -> asyncio.Task[None]:
        """Begins to read the user's stream."""
        async with self.client.user_stream(at=1) as stream:
            self.seen.append(await stream.until(lambda event: event.name == "ready"))
        self._watching = asyncio.create_task(self.client.follow("/sse/stream", self.seen, is_mark, at=1))
        return self._watching

    async def send(self, text: str, policy: str, *, at: int = 0, **trial: Any) -> httpx.Response:
        key = f"turn-{text}"
        orders = {"record": str(self._record), **trial}
        response = await self.client.send(
            text, at=at, turn_id=key, conversation_id=self.conversation, policy=policy, trial=orders
        )
        self.history.sent(key, self.conversation, text, response)
        return response

    async def ten(self, policy: str) -> list[httpx.Response]:
        """All at once, over both ingress processes."""
        return await asyncio.gather(*(self.send(f"message-{n}", policy, at=n) for n in range(10)))

    async def held(self, gate: Gate, **trial: Any) -> str:
        """A turn that runs until the gate opens; its internal id."""
        turn = (await self.send("first", "enqueue", hold=str(gate), **trial)).json()["task_id"]
        async with self.client.turn_stream(turn) as stream:
            await stream.until(lambda event: event.name == "chat_delta")
        return turn

    async def settled(self) -> dict[str, dict[str, Any]]:
        """Waits until all that was accepted has ended, and proves the history; the stored turns."""
        accepted = [send.task_id for send in self.history.sends if send.task_id]
        await asyncio.gather(*(self.client.ended(turn, at=n) for n, turn in enumerate(accepted)))
        await self.client.mark(self.conversation)
        await self._watching
        await self.history.collect(self.client, [self.conversation], self._record)
        self.history.check()
        return self.history.stored

    def ran(self) -> list[str]:
        """In their order."""
        return self.history.began()

    def told(self, what: str) -> list[str]:
        """Turns of which the feed told this, in its order."""
        return [str(event.turn) for event in self.seen if event.turn_state == what]

    def receipts(self, turn: str) -> list[str]:
        return [
            event.data["data"]["state"] for event in self.seen if event.type == "steer.receipt" and event.turn == turn
        ]


@pytest.fixture
async def trial(trial_stack, connect, conversation, tmp_path):
    trial = Trial(connect(trial_stack), conversation, tmp_path / "ran")
    watching = await trial.watch()
    yield trial
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def tasks(responses: Sequence[httpx.Response]) -> list[str]:
    assert {response.status_code for response in responses} == {202}, [response.text for response in responses]
    return [response.json()["task_id"] for response in responses]


def states(stored: dict[str, dict[str, Any]]) -> Counter[str]:
    return Counter(turn["state"] for turn in stored.values())


async def test_enqueue_runs_all_in_the_order_of_their_acceptance(trial):
    turns = tasks(await trial.ten("enqueue"))
    stored = await trial.settled()
    assert set(turns) == set(stored)
    assert states(stored) == {"completed": 10}
    assert trial.ran() == trial.told("queued") == trial.told("running") == trial.told("completed")
    # Each saw all that was said before it: it stands in the history under the turn before.
    parents = [stored[turn]["parent_turn_id"] for turn in trial.ran()]
    assert parents == [None, *trial.ran()[:-1]]


async def test_enqueue_behind_a_running_turn_waits_for_it(trial, gate):
    first = await trial.held(gate)
    responses = await trial.ten("enqueue")
    assert sorted(response.json()["position"] for response in responses) == list(range(2, 12))
    assert trial.told("running") == [first]
    gate.open()
    assert states(await trial.settled()) == {"completed": 11}
    assert trial.ran() == trial.told("queued")


async def test_reject_takes_one_and_refuses_the_others(trial, gate):
    responses = await asyncio.gather(*(trial.send(f"message-{n}", "reject", at=n, hold=str(gate)) for n in range(10)))
    assert Counter(response.status_code for response in responses) == {202: 1, 409: 9}
    for response in responses:
        if response.status_code == 409:
            told = response.json()
            assert told["error"] == "conversation_busy"
            assert told["retry_after_s"] == int(response.headers["retry-after"]) == 1
    gate.open()
    assert states(await trial.settled()) == {"completed": 1}


async def test_a_refused_message_may_be_sent_again_under_its_key(trial, gate):
    first = await trial.held(gate)
    assert {response.status_code for response in await trial.ten("reject")} == {409}
    gate.open()
    await trial.client.ended(first)
    again = await trial.send("message-3", "reject", at=1)
    assert again.status_code == 202
    assert "duplicate" not in again.json()
    trial.history.sends[:] = [send for send in trial.history.sends if send.key != "turn-message-3" or send.task_id]
    assert states(await trial.settled()) == {"completed": 2}


async def test_interrupt_cancels_what_runs_and_goes_before_what_waits(trial, gate):
    first = await trial.held(gate)
    waiting = tasks([await trial.send("waiting", "enqueue")])
    interrupting = tasks([await trial.send("interrupting", "interrupt", at=1)])
    stored = await trial.settled()
    assert [stored[turn]["state"] for turn in [first, *waiting, *interrupting]] == ["cancelled", *["completed"] * 2]
    assert trial.ran() == [first, *interrupting, *waiting]


async def test_ten_interrupts_leave_none_behind(trial, gate):
    """Each cancels what runs when it comes; all end, one at a time, and whatever nobody interrupted completes."""
    first = await trial.held(gate)
    turns = tasks(await trial.ten("interrupt"))
    stored = await trial.settled()
    assert set(stored) == {first, *turns}
    assert stored[first]["state"] == "cancelled"
    assert set(states(stored)) <= {"completed", "cancelled"}
    assert stored[trial.ran()[-1]]["state"] == "completed"


async def test_ten_steers_are_applied_once_each_in_their_order(trial, gate):
    first = await trial.held(gate)
    responses = await trial.ten("steer")
    turns = tasks(responses)
    receipts = [response.json()["receipt"] for response in responses]
    assert [receipt["id"] for receipt in receipts] == turns
    assert {receipt["state"] for receipt in receipts} <= {
        "accepted",
        "applied",
    }  # one that was faster than its 202
    await asyncio.gather(*(trial.client.ended(turn) for turn in turns))  # an applied steer has a stream that says so
    gate.open()
    stored = await trial.settled()
    assert states(stored) == {"completed": 1, "applied": 10}
    assert trial.ran() == [first]
    text_of = {send.task_id: send.text for send in trial.history.sends}
    in_order = [turn for turn in trial.told("queued") if turn != first]
    assert stored[first]["answer"] == "first" + "".join(f"[steer: {text_of[turn]}]" for turn in in_order)
    view = await trial.client.conversation(trial.conversation)
    assert [steer["task_id"] for steer in view["turns"][0]["steers"]] == in_order
    for turn in turns:
        assert trial.receipts(turn) == ["accepted", "seen", "applied"]


async def test_ten_steers_of_an_idle_conversation_are_all_heard(trial):
    """The first becomes a turn; each of the others steers a turn or becomes one."""
    turns = tasks(await trial.ten("steer"))
    stored = await trial.settled()
    assert set(stored) == set(turns)
    assert states(stored)["applied"] + states(stored)["completed"] == 10
    answers = "".join(turn["answer"] for turn in stored.values() if turn["state"] == "completed")
    for n in range(10):
        assert answers.count(f"message-{n}") == 1, answers
    for turn in turns:
        receipts = [receipt for receipt in trial.receipts(turn) if receipt != "seen"]
        assert receipts in ([], ["accepted", "applied"], ["accepted", "bounced"])


async def test_steers_of_a_turn_that_takes_none_bounce_and_run_in_their_order(trial, gate):
    first = await trial.held(gate, deaf=True)
    turns = tasks(await trial.ten("steer"))
    gate.open()
    stored = await trial.settled()
    assert states(stored) == {"completed": 11}
    assert trial.ran() == trial.told("queued") == [first, *sorted(turns, key=trial.told("queued").index)]
    for turn in turns:
        assert trial.receipts(turn) in (["accepted", "bounced"], ["accepted", "seen", "bounced"])
    for turn in turns:
        assert answer(await trial.client.ended(turn)) == stored[turn]["message"]


async def test_steers_of_a_cancelled_turn_are_cancelled_with_it(trial, gate):
    first = await trial.held(gate, deaf=True)
    turns = tasks(await trial.ten("steer"))
    assert await trial.client.cancel(turn_id=first, at=1) == "cancelling"
    stored = await trial.settled()
    assert states(stored) == {"cancelled": 11}
    assert trial.ran() == [first]
    for turn in turns:
        assert trial.receipts(turn) in (["accepted", "cancelled"], ["accepted", "seen", "cancelled"])
