"""A user has his data erased while a turn runs."""

from __future__ import annotations

import httpx
import pytest
from tests.e2e.client import state

pytestmark = pytest.mark.anyio


async def test_all_that_was_said_is_gone(stack, connect):
    user, other = connect(stack), connect(stack)
    kept = await other.sent("what another said")
    await other.ended(kept["turn_id"])
    done = await user.sent("in confidence")
    await user.ended(done["turn_id"])
    running = await user.sent("x", echo={"deltas": 1000, "delay_ms": 50}, conversation_id=done["conversation_id"])
    async with user.turn_stream(running["turn_id"]) as stream:
        await stream.until(lambda event: event.name == "chat_delta")
        answer = await user.ask("DELETE", "/me", at=1)
        assert answer.status_code == 202
        assert state(await stream.rest()) == "cancelled"
    for _ in stack.attempts("all is erased"):
        receipt = (await user.ask("GET", f"/me/erasures/{answer.json()['erasure_id']}")).json()
        if receipt["status"] == "erased":
            break
    assert receipt["erased"] | {"turns": 2, "conversations": 1} == receipt["erased"]
    for turn in (done, running):
        assert (await user.ask("GET", f"/turns/{turn['task_id']}/stream")).status_code == 404
    assert (await user.ask("GET", "/conversations")).json()["items"] == []
    assert [event.name for event in await other.ended(kept["turn_id"])][-1] == "chat_complete"

    again = await user.sent("a new life", conversation_id=done["conversation_id"])
    await user.ended(again["turn_id"])
    assert list(await user.stored(done["conversation_id"])) == [again["task_id"]]
    assert httpx.get(f"{stack.ingress[0]}/health").status_code == 200


async def test_a_proc_that_is_killed_in_the_middle_leaves_nothing_undone(new_stack, connect, tmp_path):
    crash = tmp_path / "crash"
    stack = new_stack("--ingress", "1", KDCUBE_FAILPOINTS=f"proc.erase.before_commit=crash({crash})")
    user = connect(stack)
    turns = [await user.sent(f"message {number}") for number in range(3)]
    for turn in turns:
        await user.ended(turn["turn_id"])
    crash.touch()
    erasure = (await user.ask("DELETE", "/me")).json()["erasure_id"]
    for _ in stack.attempts("all is erased"):
        receipt = (await user.ask("GET", f"/me/erasures/{erasure}")).json()
        if receipt["status"] == "erased":
            break
    assert crash.with_name("crash.reached").exists()
    assert receipt["erased"] | {"turns": 3, "conversations": 3} == receipt["erased"]
    stack.wait_back()
