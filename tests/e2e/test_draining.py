"""SIGTERM and ``kdcube down``: streams move on, what runs finishes, what waits is run later, nothing is lost."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest
from tests.chaos.history import History
from tests.e2e.client import Client, Event, Gate, Refused, answer, is_mark, logged, state, told_end_of
from tests.e2e.conftest import TRIAL, Stack

pytestmark = pytest.mark.anyio

WORDS = "one two three four"


@pytest.fixture(scope="module")
def claims(tmp_path_factory) -> Gate:
    """Open: claims go on. Closed: proc waits with what it has just claimed."""
    gate = Gate(tmp_path_factory.mktemp("claims") / "go")
    gate.open()
    return gate


@pytest.fixture(scope="module")
def stack(tmp_path_factory, claims):
    """A system whose proc may drain for three seconds (of the four until it is killed)."""
    variables = {"PROC_CONTAINER_STOP_TIMEOUT_SEC": "4", "KDCUBE_FAILPOINTS": f"proc.claim.after=pause({claims})"}
    stack = Stack(tmp_path_factory.mktemp("drained"), variables)
    stack.up(["--bundle", str(TRIAL)])
    yield stack
    stack.down()


async def running(client: Client, turn: str) -> None:
    async with client.turn_stream(turn) as stream:
        await stream.until(lambda event: event.name == "chat_delta")


async def draining(stack: Stack, instance: str, pid: int) -> None:
    """Wait until a process has understood the signal, or has even gone."""
    url = next((service.url for service in stack.state.services if service.instance == instance), None)
    async with httpx.AsyncClient() as http:
        for _ in await asyncio.to_thread(stack.attempts, f"{instance} drains"):
            try:
                if url is None or (await http.get(f"{url}/ready")).status_code != 200:
                    return
            except httpx.TransportError:
                return
            if stack.pids.get(instance) != pid:
                return


async def back(stack: Stack, instance: str, pid: int) -> None:
    await asyncio.to_thread(stack.wait_gone, instance, pid)
    await asyncio.to_thread(stack.wait_back)


async def test_streams_of_a_drained_ingress_go_on_at_another(stack, connect, conversation, gate):
    client = connect(stack)
    async with client.user_stream(at=1) as unmoved:
        await unmoved.until(lambda event: event.name == "ready")
        async with client.user_stream() as tab:
            await tab.until(lambda event: event.name == "ready")
            orders = {"hold": str(gate), "hold_after": 2}
            turn = (await client.sent(WORDS, conversation_id=conversation, trial=orders))["task_id"]
            async with client.turn_stream(turn) as stream:
                await asyncio.gather(
                    tab.until(lambda event: event.offset == 3), stream.until(lambda event: event.offset == 3)
                )
                pid = stack.signal("ingress-0", signal.SIGTERM)
                for last in ((await stream.rest())[-1], (await tab.rest())[-1]):
                    assert (last.name, last.data["reason"]) == ("server_shutdown", "draining")
                    assert last.data["retry_ms"] > 0
                    assert last.id is None
        gate.open()
        rest = [event async for event in _behind(client, turn, stream.cursor)]
        async with client.user_stream(at=1, cursor=tab.cursor) as moved:
            await moved.until(told_end_of(turn))
        await unmoved.until(told_end_of(turn))
    assert answer([*logged(stream.events), *rest]) == WORDS
    whole = [event.data for event in await client.ended(turn, at=1)]
    assert whole == [event.data for event in logged([*tab.events, *moved.events])]
    assert whole == [event.data for event in logged(unmoved.events)]
    await back(stack, "ingress-0", pid)
    assert await client.ended(turn) == await client.ended(turn, at=1)


async def _behind(client: Client, turn: str, cursor: str):
    async with client.turn_stream(turn, at=1, cursor=cursor) as stream:
        for event in await stream.rest():
            yield event


async def test_a_message_sent_during_a_drain_is_taken_elsewhere_or_told_so(stack, connect):
    """Whatever the drained process answers, the same key at the other one is one turn."""
    client = connect(stack)
    pid = stack.signal("ingress-0", signal.SIGTERM)
    turns: list[str] = []
    for n in range(20):
        try:
            response = await client.send(f"message {n}", key=f"k{n}")
            if response.status_code == 202:
                turns.append(response.json()["task_id"])
                continue
            assert response.status_code == 503
        except httpx.TransportError:
            pass
        turns.append((await client.sent(f"message {n}", key=f"k{n}", at=1))["task_id"])
    assert len(set(turns)) == 20
    assert {state(await client.ended(turn, at=1)) for turn in turns} == {"completed"}
    await back(stack, "ingress-0", pid)


async def test_a_drained_proc_finishes_what_runs_and_leaves_what_waits_to_the_next(
    stack, connect, conversation, gate, claims, tmp_path
):
    client, history, record = connect(stack), History(), tmp_path / "ran"
    trial = {"hold": str(gate), "record": str(record)}

    async def send(text: str, conversation_id: str) -> str:
        key = text.replace(" ", "-")
        response = await client.send(text, key=key, conversation_id=conversation_id, trial=trial)
        assert response.status_code == 202, response.text
        return str(history.sent(key, conversation_id, text, response).task_id)

    runs = await send("it runs", conversation)
    await running(client, runs)
    waits = await send("it waits", conversation)
    claims.close()
    claimed = await send("it is claimed", f"{conversation}-2")
    await claims.reached()
    pid = stack.signal("proc-0", signal.SIGTERM)
    await draining(stack, "proc-0", pid)
    late = await send("it comes late", f"{conversation}-3")
    claims.open()
    gate.open()
    ends = await asyncio.gather(*(client.ended(turn, at=n) for n, turn in enumerate((runs, waits, claimed, late))))
    for events in ends:
        assert (state(events), logged(events)[0].data["attempt"]) == ("completed", 1)
    await back(stack, "proc-0", pid)
    history.views["runs"], history.views["waits"] = ends[:2]
    await history.collect(client, [conversation, f"{conversation}-2", f"{conversation}-3"], record)
    history.check()


async def test_what_takes_longer_than_the_drain_is_interrupted_with_what_it_has_said(
    stack, connect, conversation, gate
):
    client = connect(stack)
    turn = await client.sent(WORDS, conversation_id=conversation, trial={"hold": str(gate), "hold_after": 2})
    after = await client.sent("next", conversation_id=conversation)
    await running(client, turn["task_id"])
    pid = stack.signal("proc-0", signal.SIGTERM)
    events = await client.ended(turn["task_id"])
    assert (events[-1].name, state(events)) == ("chat_error", "interrupted")
    assert answer(events) == events[-1].data["data"]["answer"] == "one two "
    assert answer(await client.ended(after["task_id"])) == "next"
    stored = await client.stored(conversation)
    assert (stored[turn["task_id"]]["state"], stored[turn["task_id"]]["answer"]) == ("interrupted", "one two ")
    await back(stack, "proc-0", pid)


async def test_down_and_up_again_keep_conversations_and_what_waits(stack, connect, conversation, gate, tmp_path):
    client, history, record = connect(stack), History(), tmp_path / "ran"
    seen: list[Event] = history.view("user")
    async with client.user_stream() as tab:
        await tab.until(lambda event: event.name == "ready")
        trial = {"hold": str(gate), "record": str(record)}
        sends = []
        for text in ("first", "second", "third"):
            response = await client.send(text, key=text, conversation_id=conversation, trial=trial)
            sends.append(history.sent(text, conversation, text, response))
        other = await client.sent("other")
        await client.ended(other["task_id"])
        await client.mark(other["conversation_id"], "renamed")
        await running(client, str(sends[0].task_id))
        proc = stack.pids["proc-0"]
        going = asyncio.create_task(asyncio.to_thread(stack.down))
        await draining(stack, "proc-0", proc)
        gate.open()
        await tab.rest()
        await going
    seen += tab.events
    with pytest.raises((httpx.TransportError, Refused)):
        async with client.user_stream():
            pass
    await asyncio.to_thread(stack.up, ["--bundle", str(TRIAL)])
    ends = await asyncio.gather(*(client.ended(str(send.task_id)) for send in sends))
    assert [state(events) for events in ends] == ["completed"] * 3
    await history.collect(client, [conversation], record)
    history.check()
    listed = (await client.ask("GET", "/conversations", at=1)).json()["items"]
    assert {item["conversation_id"]: item["title"] for item in listed} == {
        conversation: "first",
        other["conversation_id"]: "renamed",
    }
    # The cursor is of a life of Valkey that is over: the stream says so and goes on.
    async with client.user_stream(cursor=tab.cursor, at=1) as again:
        await again.until(lambda event: event.name == "ready")
        more = await client.sent("and more", conversation_id=conversation, policy="reject")
        await again.until(told_end_of(more["task_id"]))
        await client.mark(conversation)
        await again.until(is_mark)
    assert answer(logged(again.events, more["task_id"])) == "and more"
    stored = await client.stored(conversation)
    assert stored[more["task_id"]]["parent_turn_id"] == sends[-1].task_id
