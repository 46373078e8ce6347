"""Streams that are cut and resumed, at every place, on the other ingress process: nothing is lost, nothing is twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.e2e.client import Client, Event, Gate, Refused, answer, is_mark, logged, state, told, told_end_of

pytestmark = pytest.mark.anyio

WORDS = "one two three four five six"


async def behind(client: Client, turn_id: str, cursor: str, n: int, at: int = 1) -> list[Event]:
    """What the turn's stream brings behind a cursor, given in the header and in the query by turns."""
    async with client.turn_stream(turn_id, at=at, cursor=cursor, by_query=bool(n % 2)) as stream:
        return await stream.rest()


# --- the stream of one turn -------------------------------------------------------------------------------------------


async def test_an_ended_turn_is_resumed_behind_every_event(trial_stack, connect):
    client = connect(trial_stack)
    turn = (await client.sent(WORDS))["task_id"]
    whole = await client.ended(turn)
    assert [event.offset for event in whole] == list(range(1, 9))
    assert answer(whole) == whole[-1].data["data"]["answer"] == WORDS
    rests = await asyncio.gather(*(behind(client, turn, event.id, n) for n, event in enumerate(whole)))
    assert rests == [whole[n:] for n in range(1, len(whole) + 1)]


async def test_an_ended_turn_is_read_from_every_offset(trial_stack, connect):
    client = connect(trial_stack)
    turn = await client.sent(WORDS, turn_id="by-offset")
    whole = await client.ended(turn["task_id"])
    for offset in range(len(whole) + 1):
        async with client.turn_stream("by-offset", at=offset, offset=str(offset)) as stream:
            assert await stream.rest() == whole[offset:]


async def test_a_running_turn_is_resumed_behind_every_event(trial_stack, connect, gate):
    client = connect(trial_stack)
    turn = (await client.sent(WORDS, trial={"hold": str(gate), "hold_after": 3}))["task_id"]
    async with AsyncExitStack() as tabs:
        first = await tabs.enter_async_context(client.turn_stream(turn))
        await first.until(lambda event: event.offset == 4)
        others = [
            await tabs.enter_async_context(client.turn_stream(turn, at=1, cursor=event.id, by_query=bool(n % 2)))
            for n, event in enumerate(first.events)
        ]
        for stream in others[:-1]:
            await stream.until(lambda event: event.offset == 4)
        gate.open()
        whole = await first.rest()
        for n, stream in enumerate(others, 1):
            assert await stream.rest() == whole[n:]
    assert answer(whole) == WORDS


async def test_a_turn_that_waits_is_read_from_before_its_first_event(trial_stack, connect, conversation, gate):
    client = connect(trial_stack)
    await client.sent("held", conversation_id=conversation, trial={"hold": str(gate)})
    turn = (await client.sent(WORDS, conversation_id=conversation))["task_id"]
    async with client.turn_stream(turn) as first, client.turn_stream(turn, at=1) as other:
        for stream in (first, other):
            position = await stream.until(lambda event: event.type == "queue.position")
            assert position.data["data"]["position"] == 2
            assert position.id is None
        gate.open()
        whole = logged(await first.rest())
        assert logged(await other.rest()) == whole
    assert [event.offset for event in whole] == list(range(1, 9))
    assert answer(whole) == WORDS


async def test_a_turn_is_cut_after_every_event_while_it_runs(trial_stack, connect):
    client = connect(trial_stack)
    turn = (await client.sent(echo={"deltas": 20, "delay_ms": 10}))["task_id"]
    seen: list[Event] = []
    await client.follow(
        f"/turns/{turn}/stream", seen, lambda event: event.ends_turn, cut=lambda event: event.offset is not None
    )
    assert logged(seen) == await client.ended(turn)
    assert state(seen) == "completed"


# --- the stream of a user ---------------------------------------------------------------------------------------------


async def two_turns(client: Client, conversation: str, gate: Gate) -> tuple[str, str]:
    """One that is held, and one behind it."""
    first = await client.sent(WORDS, conversation_id=conversation, trial={"hold": str(gate), "hold_after": 3})
    second = await client.sent("seven eight", at=1, conversation_id=conversation)
    return first["task_id"], second["task_id"]


def same(seen: list[Event], whole: list[Event], *turns: str) -> None:
    """The feed's events and those of each turn are the same; only how the sources interleave may differ."""
    assert told(seen) == told(whole)
    for turn in turns:
        assert [(event.name, event.data) for event in logged(seen, turn)] == [
            (event.name, event.data) for event in logged(whole, turn)
        ]
    for turn in turns:
        shown = [event.name for event in seen if event.turn == turn and (event.ends_turn or event.turn_state)]
        assert shown[-1] == "conv_status", "the feed tells an end only behind the turn's last event"


async def test_a_users_stream_is_resumed_behind_every_event(trial_stack, connect, conversation, gate):
    """Before, during and after the turns: the cursor behind each event leads to all that followed."""
    client = connect(trial_stack)
    async with client.user_stream() as stream:
        await stream.until(lambda event: event.name == "ready")
        turns = await two_turns(client, conversation, gate)
        await stream.until(lambda event: event.offset == 4)
        gate.open()
        await stream.until(told_end_of(*turns))
        await client.mark(conversation, at=1)
        await stream.until(is_mark)
    whole = stream.events
    assert [what for _, turn, what in told(whole) if turn == turns[0]] == ["queued", "running", "completed"]
    assert answer(logged(whole, turns[0])) == WORDS
    assert answer(logged(whole, turns[1])) == "seven eight"

    async def resumed(n: int) -> None:
        async with client.user_stream(at=n, cursor=whole[n].id, by_query=bool(n // 2 % 2)) as stream:
            if whole[n].id != whole[-1].id:
                await stream.until(is_mark)
        assert stream.events[:1] == [] or stream.events[0].name == "ready"
        same(whole[: n + 1] + stream.events, whole, *turns)

    cut_at = [n for n, event in enumerate(whole) if event.id]
    assert len(cut_at) == len([event for event in whole if event.type != "queue.position"])
    await asyncio.gather(*(resumed(n) for n in cut_at))


async def test_a_users_stream_is_cut_after_every_event_while_turns_run(trial_stack, connect, conversation, gate):
    client = connect(trial_stack)
    seen: list[Event] = []
    follows = asyncio.Event()

    def cut(event: Event) -> bool:
        follows.set()
        return event.name != "ready"

    async with client.user_stream(at=1) as stream:
        await stream.until(lambda event: event.name == "ready")
        turns = await two_turns(client, conversation, gate)
        following = asyncio.create_task(client.follow("/sse/stream", seen, is_mark, cut=cut))
        await stream.until(lambda event: event.offset == 4)
        await follows.wait()
        gate.open()
        await stream.until(told_end_of(*turns))
        await client.mark(conversation)
        await stream.until(is_mark)
        await following
    # The follower came when the turns lived already: their acceptance is behind it, their events are not.
    for turn in turns:
        assert [event.data for event in logged(seen, turn)] == [event.data for event in logged(stream.events, turn)]
    assert [one for one in told(seen) if one[2] in ("completed", None)] == [
        one for one in told(stream.events) if one[2] in ("completed", None)
    ]


async def test_two_tabs_show_the_same_and_closing_one_changes_nothing(trial_stack, connect, conversation, gate):
    client = connect(trial_stack)
    async with client.user_stream() as one:
        await one.until(lambda event: event.name == "ready")
        async with client.user_stream(at=1) as other:
            await other.until(lambda event: event.name == "ready")
            turns = await two_turns(client, conversation, gate)
            await other.until(lambda event: event.offset == 4)
        gate.open()
        await one.until(told_end_of(*turns))
        await client.mark(conversation)
        await one.until(is_mark)
    async with client.user_stream(at=1, cursor=other.cursor) as again:
        await again.until(is_mark)
    same(other.events + again.events, one.events, *turns)


async def test_a_turn_goes_on_when_nobody_listens(trial_stack, connect, gate):
    client = connect(trial_stack)
    turn = (await client.sent(WORDS, trial={"hold": str(gate)}))["task_id"]
    async with client.turn_stream(turn) as stream, client.user_stream(at=1) as tab:
        await stream.until(lambda event: event.offset == 2)
        await tab.until(lambda event: event.offset == 2)
    gate.open()
    assert state(await client.ended(turn, at=1)) == "completed"


async def test_a_stream_of_one_conversation_shows_no_other(trial_stack, connect, conversation):
    client = connect(trial_stack)
    async with client.user_stream(conversation_id=conversation) as stream:
        await stream.until(lambda event: event.name == "ready")
        other = await client.sent()
        await client.ended(other["task_id"])
        wanted = await client.sent(conversation_id=conversation, at=1)
        await stream.until(told_end_of(wanted["task_id"]))
    assert {event.turn for event in stream.events if event.name != "ready"} == {wanted["task_id"]}


async def test_text_of_every_kind_comes_through_whole(trial_stack, connect):
    """Only U+0000, which PostgreSQL does not store, becomes U+FFFD, everywhere."""
    text = "line\r\nbreaks\n\n\u2028 \u0085 data: id: event: \x0b\x0c\x1c \x00 grüß 👩‍👩‍👧 ende\n"
    client = connect(trial_stack)
    sent = await client.sent(text)
    events = await client.ended(sent["task_id"], at=1)
    stored = (await client.stored(sent["conversation_id"]))[sent["task_id"]]
    for copy in (answer(events), events[-1].data["data"]["answer"], events[0].data["data"]["message"]):
        assert copy == text.replace("\x00", "\ufffd")
        assert copy == stored["answer"] == stored["message"]


# --- cursors that cannot be followed ----------------------------------------------------------------------------------


async def test_the_header_beats_the_query(trial_stack, connect):
    client = connect(trial_stack)
    turn = (await client.sent(WORDS))["task_id"]
    whole = await client.ended(turn)
    path = client.url(f"/turns/{turn}/stream?cursor={whole[0].id}", 1)
    response = await client.http.get(path, headers={"Last-Event-ID": whole[-2].id})
    assert response.text.startswith(f"id: {whole[-1].id}\n")
    refused = await client.http.get(path, headers={"Last-Event-ID": "nonsense"})
    assert refused.status_code == 400


@pytest.mark.parametrize("where", ["ahead", "another-epoch", "another-incarnation"])
async def test_a_genuine_cursor_that_leads_nowhere_gets_a_resync(trial_stack, connect, gate, where):
    client = connect(trial_stack)
    turn = (await client.sent(WORDS, trial={"hold": str(gate), "hold_after": 3}))["task_id"]
    async with client.turn_stream(turn) as stream:
        last = await stream.until(lambda event: event.offset == 4)
        version, epoch, id_, incarnation, offset = last.id.split(".")
        cursor = {
            "ahead": f"{version}.{epoch}.{id_}.{incarnation}.{int(offset) + 100}",
            "another-epoch": f"{version}.{int(epoch) + 5}.{id_}.{incarnation}.2",
            "another-incarnation": f"{version}.{epoch}.{id_}.{int(incarnation) + 1}.2",
        }[where]
        async with client.turn_stream(turn, at=1, cursor=cursor) as other:
            resync = await other.until(lambda event: event.name == "resync")
            assert resync.data["data"]["text"] == {"answer": "one two three "}
            assert (resync.data["data"]["task_id"], resync.data["data"]["state"]) == (turn, "running")
            gate.open()
            whole, replaced = await stream.rest(), await other.rest()
    assert answer(replaced) == answer(whole) == WORDS
    assert logged(replaced)[1:] == whole[4:]


@pytest.mark.parametrize("by_query", [False, True])
@pytest.mark.parametrize(
    "cursor",
    ["x", "t1.1", "u1.1.0.0.0", "t1.-1.{turn}.1.2", "t1.1.{other}.1.2", "t1.1.{turn}.1." + "9" * 99],
)
async def test_a_malformed_or_foreign_cursor_of_a_turn_is_refused(trial_stack, connect, cursor, by_query):
    client = connect(trial_stack)
    turn = (await client.sent())["task_id"]
    cursor = cursor.format(turn=turn, other="0" * 32)
    with pytest.raises(Refused) as refused:
        async with client.turn_stream(turn, cursor=cursor, by_query=by_query):
            pass
    response = refused.value.response
    assert response.status_code == 400
    assert response.json()["field"] == "cursor"
