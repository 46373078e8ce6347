"""One turn's stream: cut and resumed anywhere, healed after every kind of loss."""

from __future__ import annotations

import pytest
from tests.unit.ingress.streams.fakes import completed, delta, stored
from tests.unit.ingress.streams.harness import View, caller, read_turn, request, spin

from kdcube.gateway.errors import NotFound
from kdcube.ingress.streams import StreamSettings
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnState
from kdcube.redis.queue import QueuePosition

pytestmark = pytest.mark.anyio


@pytest.fixture
def turn(site):
    turn_id = new_id()
    site.turns.add(stored(turn_id))
    site.valkey.known.add(turn_id)
    return turn_id


def whole(events, text, *, resyncs=0):
    view = View().apply_all(events)
    assert view.text.get("answer", "") == text
    assert len(view.terminal) == 1
    assert view.resyncs == resyncs
    return view


async def test_from_before_the_start_to_the_end(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.start(turn)
    for word in "abc":
        site.valkey.append(turn, [delta(word)])
        await spin()
    site.valkey.finish(turn, completed("abc"))
    events = await reader.to_the_end()
    assert [event.name for event in events] == ["chat_start", *["chat_delta"] * 3, "chat_complete"]
    assert events[-1].id == f"t1.1.{turn}.1.5e"
    data = events[1].data
    assert data["conversation"] == {
        "session_id": "s",
        "conversation_id": f"c-{turn[:4]}",
        "turn_id": f"client-{turn[:4]}",
        "task_id": turn,
    }
    assert (data["offset"], data["incarnation"], data["type"]) == (2, 1, "chat.delta")
    assert data["bundle"] == {"id": "echo", "version": "1"}
    whole(events, "abc")
    assert reader.complete
    assert streams.count == 0
    assert len(streams._hub) == 0
    assert site.valkey.reads == 1  # all the rest was heard


async def test_resumes_at_every_offset_on_another_process(site, streams, turn):
    site.valkey.start(turn)
    for n in range(20):
        site.valkey.append(turn, [delta(f"{n}."), delta("x")])
    site.valkey.finish(turn)
    events = await (await read_turn(streams, turn)).to_the_end()
    assert len(events) == 42
    text = "".join(f"{n}.x" for n in range(20))
    async with site.process() as other:
        for cut in range(43):
            first = events[:cut]
            cursor = first[-1].id if first else None
            rest = await (await read_turn(other, turn, cursor)).to_the_end()
            whole(first + rest, text)
            by_offset = await (await read_turn(other, turn, query=f"offset={cut}")).to_the_end()
            assert by_offset == rest


async def test_the_header_beats_the_cursor_which_beats_the_offset(site, streams, turn):
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("a"), delta("b"), delta("c")])
    site.valkey.finish(turn)
    cursor = f"t1.1.{turn}.1."
    for header, query, first in (
        (cursor + "4", f"cursor={cursor}2&offset=1", 5),
        (None, f"cursor={cursor}2&offset=1", 3),
        (None, "offset=1", 2),
    ):
        events = await (await read_turn(streams, turn, header, query=query)).to_the_end()
        assert events[0].data["offset"] == first


@pytest.mark.parametrize(
    "header", ["nonsense", "t1.1.abc.1.1", "u1.1.00000000.00000000.0", "t1.1." + "0" * 32 + ".1.1", "t1.-1.x.1.1"]
)
async def test_a_malformed_or_foreign_cursor(streams, turn, header):
    with pytest.raises(InvalidInput) as caught:
        await streams.turn_stream(request(header), caller(), turn)
    assert caught.value.field == "cursor"


@pytest.mark.parametrize("offset", ["-1", "x", "1e3", "9" * 16, "٣"])
async def test_a_malformed_offset(streams, turn, offset):
    with pytest.raises(InvalidInput) as caught:
        await streams.turn_stream(request(query=f"offset={offset}"), caller(), turn)
    assert caught.value.field == "offset"


async def test_another_users_turn_does_not_exist(streams, turn):
    for id_ in (turn, f"client-{turn[:4]}", "unknown"):
        with pytest.raises(NotFound):
            await streams.turn_stream(request(), caller("eve"), id_)


async def test_the_clients_id_and_the_former_anonymous_owner(site, streams, turn):
    site.valkey.finish(turn)
    reader = await read_turn(streams, f"client-{turn[:4]}", user=caller("new", anonymous_user_id="ada"))
    assert [event.name for event in await reader.to_the_end()] == ["chat_complete"]


async def test_late_doubled_and_lost_messages(site, streams, turn):
    channels = site.valkey.channels[0]
    site.valkey.auto = False
    site.valkey.start(turn)
    reader = await read_turn(streams, turn)
    await spin()
    for n in range(6):
        site.valkey.append(turn, [delta(str(n))])
    del channels.undelivered[0]  # lost
    channels.deliver()
    channels.repeat(0)
    await spin()
    channels.deliver()
    channels.repeat(0)
    await spin()
    site.valkey.finish(turn)
    channels.undelivered.clear()  # the rest is lost, the end included
    await site.later(streams, 4.9)
    assert not reader.task.done()
    await site.later(streams, 0.2)
    whole(await reader.to_the_end(), "012345")


async def test_a_change_without_lines_is_read(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("x" * 70_000)], carried=False)
    site.valkey.append(turn, [delta("y")])
    site.valkey.finish(turn)
    whole(await reader.to_the_end(), "x" * 70_000 + "y")


async def test_many_followers_cost_one_reader(site, streams, turn):
    readers = [await read_turn(streams, turn) for _ in range(50)]
    await spin()
    site.valkey.start(turn)
    for n in range(100):
        site.valkey.append(turn, [delta(f"{n} ")])
    await spin()
    late = await read_turn(streams, turn)
    await spin()
    reads = site.valkey.reads
    site.valkey.finish(turn)
    for reader in [*readers, late]:
        whole(await reader.to_the_end(), "".join(f"{n} " for n in range(100)))
    assert reads == site.valkey.reads == 1


async def test_a_second_follower_is_shown_what_is_known_at_once(site, streams, turn):
    """Nothing has to happen in the log, and no time to pass, before it gets what the first one has."""
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("a"), delta("b")])
    first = await read_turn(streams, turn)
    await first.until(lambda events: len(events) == 3)
    second = await read_turn(streams, turn)
    await spin()
    assert second.events == first.events
    resumed = await read_turn(streams, turn, first.events[0].id)
    await spin()
    assert resumed.events == first.events[1:]
    for reader in (first, second, resumed):
        await reader.leave()


async def test_a_slow_reader_holds_nothing_and_loses_nothing(site, turn):
    settings = StreamSettings(tick_s=3600, recent_bytes=20_000, send_bytes=4_000)
    async with site.process(settings) as streams:
        slow = await read_turn(streams, turn, paused=True)
        fast = await read_turn(streams, turn)
        await spin()
        site.valkey.start(turn)
        for n in range(500):
            site.valkey.append(turn, [delta(f"{n} ")])
            await spin(4)
            assert streams._hub._logs[turn].recent_bytes <= 20_000
        assert slow.events == []
        site.valkey.finish(turn)
        text = "".join(f"{n} " for n in range(500))
        whole(await fast.to_the_end(), text)
        slow.resume()
        whole(await slow.to_the_end(), text)
        assert slow.sends > 20
        assert slow.largest_send < 8_000


async def test_another_incarnation_in_mid_stream(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("lost "), delta("words ")])
    await spin()
    site.valkey.reopen(turn, "lost words and more")
    site.valkey.append(turn, [delta(" to come")])
    site.valkey.finish(turn)
    events = await reader.to_the_end()
    whole(events, "lost words and more to come", resyncs=1)
    notice, resync = events[3], events[4]
    assert (notice.name, notice.data["type"]) == ("chat_step", "stream.resync")
    assert resync.name == "resync"
    assert resync.data["data"]["task_id"] == turn
    assert resync.data["data"]["turn_id"] == f"client-{turn[:4]}"
    assert resync.data["data"]["state"] == "running"
    for n, event in enumerate(events):
        if event.id and n < len(events) - 1:
            rest = await (await read_turn(streams, turn, event.id)).to_the_end()
            whole(
                events[: n + 1] + rest,
                "lost words and more to come",
                resyncs=View().apply_all(events[: n + 1] + rest).resyncs,
            )


async def test_who_comes_first_to_a_log_that_began_anew_is_told(site, streams, turn):
    site.valkey.reopen(turn, "so far")
    site.valkey.append(turn, [delta("!")])
    site.valkey.finish(turn)
    events = await (await read_turn(streams, turn)).to_the_end()
    assert [event.name for event in events] == ["chat_step", "resync", "chat_delta", "chat_complete"]
    whole(events, "so far!", resyncs=1)
    assert events[1].data["data"]["steps"] == []


async def test_another_epoch(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("half")])
    await spin()
    site.valkey.epoch = None
    site.valkey.logs.clear()
    site.valkey.channels[0].reconnect()
    await spin()
    await site.later(streams, 1)
    assert not reader.task.done()
    site.valkey.epoch = 2
    site.valkey.reopen(turn, "half of")
    site.valkey.append(turn, [delta(" it")])
    await spin()
    await site.later(streams, 1)
    site.valkey.finish(turn)
    events = await reader.to_the_end()
    view = whole(events, "half of it", resyncs=1)
    assert view.place[0] == 1
    assert events[-1].id.startswith("t1.2.")
    rest = await (await read_turn(streams, turn, events[1].id)).to_the_end()  # a cursor of the epoch before
    whole(events[:2] + rest, "half of it", resyncs=1)


async def test_a_turn_that_goes_back_to_the_queue(site, streams, turn):
    """Valkey was lost, and the turn's bundle allows another attempt."""
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("first try")])
    await spin()
    site.valkey.logs.clear()
    site.valkey.epoch = 2
    site.valkey.channels[0].reconnect()
    await spin()
    site.valkey.start(turn, attempt=2)
    site.valkey.append(turn, [delta("second", 2)])
    site.valkey.finish(turn)
    events = await reader.to_the_end()
    view = whole(events, "second", resyncs=1)
    assert view.attempt == 2


async def test_a_log_that_was_rolled_back(site, streams, turn):
    site.valkey.start(turn)
    for n in range(5):
        site.valkey.append(turn, [delta(str(n))])
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.logs[turn].batches = site.valkey.logs[turn].batches[:3]
    site.valkey.channels[0].reconnect()
    await spin()
    site.valkey.finish(turn)
    whole(await reader.to_the_end(), "01", resyncs=1)


async def test_an_expired_log_is_told_from_the_row(site, streams, turn):
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("a"), delta("b")])
    reader = await read_turn(streams, turn)
    await spin()
    first = list(reader.events)
    await reader.leave()
    site.valkey.expire(turn)
    site.turns.add(stored(turn, state=TurnState.COMPLETED, answer="abc"))
    for cursor in (None, first[-1].id, "t1.9." + turn + ".3.7"):
        events = await (await read_turn(streams, turn, cursor)).to_the_end()
        assert [event.name for event in events] == ["chat_step", "resync", "chat_complete"]
        whole((first if cursor else []) + events, "abc", resyncs=1)
        assert events[1].data["data"]["state"] == "completed"
        assert events[2].data["data"]["answer"] == "abc"
    assert [e.name for e in await (await read_turn(streams, turn, events[1].id)).to_the_end()] == ["chat_complete"]
    assert await (await read_turn(streams, turn, events[2].id)).to_the_end() == []


async def test_who_has_the_end_is_told_nothing_whatever_became_of_the_log(site, streams, turn):
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("a"), delta("b")])
    site.valkey.finish(turn)
    end = (await (await read_turn(streams, turn)).to_the_end())[-1]
    site.turns.add(stored(turn, state=TurnState.COMPLETED, answer="ab"))
    site.valkey.epoch = 2
    site.valkey.expire(turn)
    async with site.process() as other:
        assert await (await read_turn(other, turn, end.id)).to_the_end() == []
        foreign = end.id.replace(turn, new_id())
        with pytest.raises(InvalidInput, match="another turn"):
            await read_turn(other, turn, foreign)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (TurnState.INTERRUPTED, "chat_error"),
        (TurnState.CANCELLED, "chat_complete"),
        (TurnState.APPLIED, "chat_complete"),
    ],
)
async def test_every_end_is_told(site, streams, turn, state, name):
    site.valkey.expire(turn)
    site.turns.add(stored(turn, state=state))
    events = await (await read_turn(streams, turn)).to_the_end()
    assert events[-1].name == name
    assert events[-1].data["data"]["state"] == state


async def test_a_log_left_open_by_a_turn_that_has_ended(site, streams, turn):
    """Valkey was rebuilt without the turn; nobody has closed its log."""
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("a")])
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.known.discard(turn)
    site.turns.add(stored(turn, state=TurnState.INTERRUPTED, answer="a"))
    await site.later(streams, 5)
    whole(await reader.to_the_end(), "a", resyncs=1)


async def test_a_turn_in_no_store_but_its_row_is_waited_for(site, streams, turn):
    site.valkey.expire(turn)
    reader = await read_turn(streams, turn)
    await site.later(streams, 5)
    assert reader.events == []
    site.valkey.start(turn)
    site.valkey.finish(turn)
    whole(await reader.to_the_end(), "")


async def test_postgres_away_while_it_is_asked(site, streams, turn):
    site.valkey.expire(turn)
    reader = await read_turn(streams, turn)
    site.turns.up = False
    await spin()
    await site.later(streams, 1)
    assert not reader.task.done()
    site.turns.up = True
    site.turns.add(stored(turn, state=TurnState.COMPLETED, answer="x"))
    await site.later(streams, 1)
    whole(await reader.to_the_end(), "x", resyncs=1)


async def test_cancelled_in_the_queue(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.finish(turn, completed(state=TurnState.CANCELLED))
    events = await reader.to_the_end()
    assert [event.name for event in events] == ["chat_complete"]
    assert events[0].data["conversation"]["task_id"] == turn


async def test_a_log_without_a_head_gets_one_from_the_row(site, streams, turn):
    site.valkey.finish(turn, completed(state=TurnState.CANCELLED))
    events = await (await read_turn(streams, turn)).to_the_end()
    assert events[0].data["conversation"]["task_id"] == turn


async def test_valkey_away_and_back(site, streams, turn):
    site.valkey.start(turn)
    reader = await read_turn(streams, turn)
    await spin()
    site.valkey.up = False
    await site.later(streams, 6)
    await site.later(streams, 16)
    assert reader.comments == 1
    site.valkey.append(turn, [delta("unheard")])
    site.valkey.up = True
    await site.later(streams, 0.3)
    site.valkey.finish(turn)
    whole(await reader.to_the_end(), "unheard")


async def test_a_cursor_ahead_of_what_this_process_has_heard(site, streams, turn):
    site.valkey.start(turn)
    first = await read_turn(streams, turn)
    await spin()
    site.valkey.auto = False
    site.valkey.append(turn, [delta("a"), delta("b")])
    second = await read_turn(streams, turn, f"t1.1.{turn}.1.3")
    await spin()
    site.valkey.finish(turn)
    site.valkey.channels[0].undelivered.clear()
    await site.later(streams, 6)
    assert [event.name for event in await second.to_the_end()] == ["chat_complete"]
    whole(await first.to_the_end(), "ab")


async def test_an_offset_that_is_not_there_yet_is_resynced(site, streams, turn):
    site.valkey.start(turn)
    site.valkey.append(turn, [delta("a")])
    reader = await read_turn(streams, turn, query="offset=99")
    await spin()
    assert [event.name for event in reader.events] == ["chat_step", "resync"]
    site.valkey.finish(turn)
    whole(await reader.to_the_end(), "a", resyncs=1)


async def test_queue_positions_carry_no_id_and_come_when_they_change(site, streams, turn):
    reader = await read_turn(streams, turn)
    await spin()
    for position in (3, 3, 2, 2, 1):
        site.valkey.positions[turn] = QueuePosition(TurnState.QUEUED, position, position * 1.5)
        await site.later(streams, 1.0)
        await site.later(streams, 1.0)
    assert site.valkey.asked_positions == 5
    assert View().apply_all(reader.events).positions == [3, 2, 1]
    assert reader.events[0].data["data"] == {"position": 3, "eta_s": 4.5}
    assert reader.events[0].data["conversation"]["turn_id"] == f"client-{turn[:4]}"
    site.valkey.start(turn)
    site.valkey.finish(turn)
    whole(await reader.to_the_end(), "")


async def test_steps_and_services_pass_through_unread(site, streams, turn):
    site.valkey.start(turn)
    step = {"step": "s1", "title": "näh", "status": "started"}
    site.valkey.append(
        turn,
        [
            encode_line(Kind.STEP, "chat.step", ts_ms=1, attempt=1, event=step),
            encode_line(Kind.SERVICE, "turn.usage", ts_ms=1, attempt=1, data={"model": "m"}),
        ],
    )
    site.valkey.finish(turn)
    events = await (await read_turn(streams, turn)).to_the_end()
    assert [event.name for event in events] == ["chat_start", "chat_step", "chat_service", "chat_complete"]
    assert events[1].data["event"] == step
    assert events[2].data["data"] == {"model": "m"}
