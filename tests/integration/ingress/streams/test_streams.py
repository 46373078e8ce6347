"""Streams on real stores: cut and resumed at every offset, healed after each loss."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.ingress.streams.harness import Reader, View, caller, read_turn, read_user, request, views

from kdcube.gateway.errors import NotFound
from kdcube.ingress.streams import StreamSettings
from kdcube.protocol.cursors import user_tag
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import TurnState

pytestmark = pytest.mark.anyio

WORDS = [f"{n} " for n in range(12)]
TEXT = "".join(WORDS)


def names(events):
    return [event.name for event in events]


def idle(count):
    return lambda events: sum(e.name == "conv_status" and "completion" in e.data["data"] for e in events) == count


def whole(events, text, *, resyncs=0):
    view = View().apply_all(events)
    assert view.text.get("answer", "") == text
    assert (len(view.terminal), view.resyncs) == (1, resyncs)
    return view


async def test_one_turn_cut_and_resumed_at_every_offset_on_the_other_process(site):
    async with site.process("one") as one, site.process("two") as two:
        turn = (await site.admit()).turn_id
        before = await read_turn(one, turn)
        await before.until(lambda events: bool(events))  # its place in the queue
        await site.start(turn)
        during = []
        for word in WORDS:
            await site.say(turn, word)
            cut = len(during)
            reader = await read_turn((one, two)[cut % 2], turn, during[-1].id if during else None)
            want = 2 if not during else 1
            await reader.until(lambda events, n=want: len(events) >= n)
            during += reader.events
            await reader.leave()
        await site.end(turn)
        during += await (await read_turn(two, turn, during[-1].id)).to_the_end()
        whole(during, TEXT)
        events = await before.to_the_end()
        whole(events, TEXT)
        log = [event for event in events if event.id]
        assert names(log) == ["chat_start", *["chat_delta"] * 12, "chat_complete"]
        for cut in range(len(log) + 1):
            rest = await (await read_turn((two, one)[cut % 2], turn, log[cut - 1].id if cut else None)).to_the_end()
            assert log[:cut] + rest == log


def kept(events):
    """Without what has no id: queue positions come when a tick falls in between, and never again."""
    return [event for event in events if event.id]


async def test_a_users_stream_cut_behind_every_event_on_the_other_process(site):
    async with site.process("one") as one, site.process("two") as two:
        tabs = [await read_user(one, query=f"stream_id=tab{n}") for n in range(2)]
        turns = [(await site.admit()).turn_id for _ in range(3)]
        for turn in turns:
            await site.start(turn)
        for word in WORDS:
            await asyncio.gather(*(site.say(turn, word) for turn in turns))
        for turn in turns:
            await site.end(turn)
        for tab in tabs:
            await tab.until(idle(3))
            assert {turn: view.text["answer"] for turn, view in views(tab.events).items()} == dict.fromkeys(turns, TEXT)
        events = kept(tabs[0].events)
        for cut in range(1, len(events) + 1):
            again = await read_user(two, events[cut - 1].id)
            await again.until(lambda got, n=cut: len(kept(got)) - 1 == len(events) - n)
            both = events[:cut] + kept(again.events)[1:]
            assert idle(3)(both)
            for view in views(both).values():
                assert (view.text["answer"], len(view.terminal), view.resyncs) == (TEXT, 1, 0)
            await again.leave()
        for tab in tabs:
            await tab.leave()


async def test_a_slow_reader_gets_everything_at_its_own_pace(site):
    async with site.process(settings=StreamSettings(tick_s=0.05, recent_bytes=64_000, send_bytes=16_000)) as streams:
        turn = (await site.admit()).turn_id
        await site.start(turn)
        slow, fast = await read_turn(streams, turn, paused=True), await read_turn(streams, turn)
        text = ""
        for n in range(300):
            words = [f"{n}.{m} " + "y" * 200 for m in range(10)]
            text += "".join(words)
            await site.say(turn, *words)
        await fast.until(lambda events: len(events) == 3001)
        assert streams._hub._logs[turn].recent_bytes <= 64_000
        slow.resume()
        await slow.until(lambda events: len(events) == 3001)
        assert slow.largest_send < 50_000
        await site.end(turn)
        for reader in (slow, fast):
            whole(await reader.to_the_end(), text)


async def test_a_stream_that_is_opened_during_a_rebuild_begins_when_it_is_over(site, streams):
    site.epoch = await site.epochs.next()
    assert await site.working_state.begin(site.epoch)
    opening = asyncio.create_task(streams.user_stream(request(), caller()))
    while streams._epochs.known() is not None:  # it has found that there is none
        await asyncio.sleep(0.01)
    assert not opening.done()
    await site.epochs.publish(site.epoch)
    assert await site.working_state.publish(site.epoch, max_order=0, run_id="r")
    reader = Reader(await opening)
    await reader.until(lambda events: names(events) == ["ready"])
    await reader.leave()


@pytest.mark.parametrize("size", [33_000, 70_000, 200_000])
async def test_large_batches(site, streams, size):
    turn = (await site.admit()).turn_id
    reader = await read_turn(streams, turn)
    await site.start(turn)
    words = [letter * (size // 4) for letter in "abcd"]
    for _ in range(3):
        await site.say(turn, *words)
    await site.end(turn)
    whole(await reader.to_the_end(), "".join(words) * 3)


async def test_an_incarnation_in_mid_stream(site, streams):
    turn = (await site.admit()).turn_id
    await site.start(turn)
    reader = await read_turn(streams, turn)
    await site.say(turn, "a", "b")
    await reader.until(lambda events: len(events) == 3)
    await site.expire(turn)
    await site.reopen(turn)
    await site.say(turn, "c")
    await site.end(turn)
    events = await reader.to_the_end()
    whole(events, "abc", resyncs=1)
    rest = await (await read_turn(streams, turn, events[1].id)).to_the_end()
    whole(events[:2] + rest, "abc", resyncs=1)


async def test_valkey_is_emptied_and_rebuilt_in_mid_turn(site, streams):
    turn = (await site.admit()).turn_id
    await site.start(turn)
    reader, user = await read_turn(streams, turn), await read_user(streams)
    await site.say(turn, "half")
    await reader.until(lambda events: len(events) == 2)
    await user.until(lambda events: "chat_delta" in names(events))
    await site.connection.call("FLUSHALL")
    await site.rebuild()
    await site.end(turn, TurnState.INTERRUPTED, close=False)
    whole(await reader.to_the_end(), "half", resyncs=1)
    events = await user.until(lambda events: "chat_error" in names(events))
    assert views(events)[turn].text == {"answer": "half"}
    following = await site.whole("next")
    await user.until(idle(1))
    assert views(user.events)[following].text == {"answer": "next"}
    async with site.process("two") as two:
        again = await read_user(two, events[2].id)
        await again.until(lambda events: "chat_error" in names(events))
        assert views(events[:3] + again.events[1:])[turn].resyncs == 1
        await again.leave()
    await user.leave()


async def test_an_expired_log(site, streams):
    turn = await site.whole(*WORDS)
    events = await (await read_turn(streams, turn)).to_the_end()
    await site.expire(turn)
    for cut in (0, 1, 5, len(events) - 1):
        rest = await (await read_turn(streams, turn, events[cut - 1].id if cut else None)).to_the_end()
        assert names(rest) == ["chat_step", "resync", "chat_complete"]
        whole(events[:cut] + rest, TEXT, resyncs=1)
        assert rest[-1].data["data"]["answer"] == TEXT


async def test_the_socket_of_the_channels_is_cut_in_mid_turn(site, streams):
    turn = (await site.admit()).turn_id
    await site.start(turn)
    readers = [await read_turn(streams, turn), await read_turn(streams, turn)]
    user = await read_user(streams)
    for n, word in enumerate(WORDS):
        if n % 4 == 2:
            await site.connection.call("CLIENT", "KILL", "TYPE", "pubsub")
        await site.say(turn, word)
    await site.end(turn)
    for reader in readers:
        whole(await reader.to_the_end(), TEXT)
    await user.until(idle(1))
    assert views(user.events)[turn].text == {"answer": TEXT}
    await user.leave()


async def test_every_socket_is_cut_again_and_again(site, streams):
    turn = (await site.admit()).turn_id
    await site.start(turn)
    reader, user = await read_turn(streams, turn), await read_user(streams)
    for word in WORDS:
        await site.connection.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await site.connection.call("CLIENT", "KILL", "TYPE", "pubsub")
        await site.say(turn, word)
    await site.end(turn)
    whole(await reader.to_the_end(), TEXT)
    await user.until(idle(1))
    await user.leave()


async def test_valkey_stops_for_a_while(site, streams, valkey_server):
    turn = (await site.admit()).turn_id
    await site.start(turn)
    await site.say(turn, "a")
    reader = await read_turn(streams, turn)
    await reader.until(lambda events: len(events) == 2)
    valkey_server.pause()
    speaking = asyncio.create_task(site.say(turn, "b"))
    valkey_server.resume()
    await speaking
    await site.end(turn)
    whole(await reader.to_the_end(), "ab")


async def test_queue_positions(site, streams):
    turns = [(await site.admit()).turn_id for _ in range(3)]
    reader = await read_turn(streams, turns[2])
    await reader.until(lambda events: bool(events))
    assert reader.events[0].data["data"]["position"] == 3
    user = await read_user(streams)
    await user.until(lambda events: len(views(events)) == 3)
    assert {turn: view.positions for turn, view in views(user.events).items()} == {
        t: [n] for n, t in enumerate(turns, 1)
    }
    await reader.leave()
    await user.leave()


async def test_what_is_not_the_callers(site, streams):
    mine, hers = await site.whole("a"), await site.whole("b", user="eve")
    for id_ in (hers, "turn_unknown"):
        with pytest.raises(NotFound):
            await streams.turn_stream(request(), caller(), id_)
    feed = (await site.feeds.read("ada", None)).feed
    tag = user_tag("ada")
    for cursor in (
        "rubbish",
        f"u1.{site.epoch}.{user_tag('eve')}.{feed}.1",
        f"u1.{site.epoch}.{tag}.{feed}.1;{hers}.1.1",
        f"t1.{site.epoch}.{mine}.1.1",
    ):
        with pytest.raises(InvalidInput):
            await streams.user_stream(request(cursor), caller())
    with pytest.raises(InvalidInput):
        await streams.turn_stream(request(f"t1.{site.epoch}.{hers}.1.1"), caller(), mine)


async def test_cancelled_in_the_queue(site, streams):
    turn = await site.admit()
    reader, user = await read_turn(streams, turn.turn_id), await read_user(streams)
    await site.turns.cancel(turn.turn_id, "ada", 1)
    line = terminal_line(TurnState.CANCELLED, ts_ms=1, attempt=0)
    assert await site.queue.finish(turn, None, epoch=site.epoch, state=TurnState.CANCELLED, line=line)
    events = [event for event in await reader.to_the_end() if event.id]
    assert names(events) == ["chat_complete"]
    assert events[0].data["conversation"]["turn_id"] == turn.client_turn_id
    await user.until(idle(1))
    assert user.events[-1].data["data"]["turn_state"] == "cancelled"
    await user.leave()


async def test_signing_in(site, streams):
    turn = (await site.admit("anon")).turn_id
    await site.start(turn)
    await site.say(turn, "a")
    before = await read_user(streams, user=caller("anon"))
    await before.until(lambda events: len(events) == 3)
    await before.leave()
    after = await read_user(streams, before.last_id, user=caller("ada", anonymous_user_id="anon"))
    await site.say(turn, "b")
    await site.end(turn)
    await after.until(lambda events: "chat_complete" in names(events))
    view = views(before.events + after.events)[turn]
    assert (view.text, view.resyncs) == ({"answer": "ab"}, 1)
    await after.leave()
