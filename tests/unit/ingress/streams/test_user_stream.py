"""A user's stream: the feed and the live turns, interleaved, resumable behind each event."""

from __future__ import annotations

import asyncio
import random

import pytest
from starlette.requests import ClientDisconnect
from tests.unit.ingress.streams.fakes import KEYS, Feed, completed, delta, stored
from tests.unit.ingress.streams.harness import Reader, caller, read_user, request, spin, views

from kdcube.gateway.errors import Unavailable
from kdcube.ingress.streams import StreamSettings
from kdcube.protocol.cursors import parse_user_cursor, user_tag
from kdcube.protocol.errors import EpochMismatch, InvalidInput, StoreUnavailable
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TurnState
from kdcube.redis.queue import QueuePosition

pytestmark = pytest.mark.anyio


class Author:
    """Does to the stores what ingress and proc do."""

    def __init__(self, site, user="ada"):
        self.site, self.user = site, user
        self.said: dict[str, str] = {}

    def accept(self, turn=None):
        turn = turn or new_id()
        self.said[turn] = ""
        self.site.turns.add(stored(turn, user=self.user))
        self.site.valkey.known.add(turn)
        self.site.feeds.turn(self.user, "turn.accepted", turn)
        return turn

    def start(self, turn):
        self.site.valkey.start(turn)
        self.site.feeds.turn(self.user, "turn.started", turn, attempt=1)

    def say(self, turn, *words):
        self.said[turn] += "".join(words)
        self.site.valkey.append(turn, [delta(word) for word in words])

    def end(self, turn, state=TurnState.COMPLETED):
        self.site.turns.add(stored(turn, user=self.user, state=state, answer=self.said[turn]))
        self.site.valkey.finish(turn, completed(self.said[turn], state))
        self.site.feeds.turn(self.user, "turn.ended", turn, state=state)

    def whole(self, *words, turn=None):
        turn = self.accept(turn)
        self.start(turn)
        self.say(turn, *(words or ("a", "b")))
        self.end(turn)
        return turn


@pytest.fixture
def author(site):
    return Author(site)


def names(events):
    return [event.name for event in events]


def states(events):
    return [(e.data["data"]["state"], e.data["data"]["turn_state"]) for e in events if e.name == "conv_status"]


def check_order(events):
    """``turn.ended`` comes behind the turn's terminal event."""
    ended = set()
    for event in events:
        if event.name in ("chat_complete", "chat_error"):
            ended.add(event.data["conversation"]["task_id"])
        if event.name == "conv_status" and "completion" in event.data["data"]:
            assert event.data["data"]["task_id"] in ended


async def test_ready_then_a_turn_from_its_acceptance_to_its_end(site, streams, author):
    reader = await read_user(streams)
    await spin()
    turn = author.accept()
    await spin()
    author.start(turn)
    author.say(turn, "a", "b")
    author.end(turn)
    events = await reader.until(lambda events: len(events) == 8)
    assert names(events)[0] == "ready"
    ready = events[0].data
    assert (ready["session_id"], ready["stream_id"], ready["user_type"]) == ("s-ada", "s1", "registered")
    assert ready["cursor"] == events[0].id
    assert states(events) == [("queued", "queued"), ("in_progress", "running"), ("idle", "completed")]
    status = events[-1].data
    assert status["data"]["completion"] == {"turn_id": f"client-{turn[:4]}", "state": "completed"}
    assert status["conversation"]["conversation_id"] == f"c-{turn[:4]}"
    view = views(events)[turn]
    assert view.text == {"answer": "ab"}
    check_order(events)
    assert all(event.id for event in events)
    assert parse_user_cursor(events[-1].id).live == {}
    assert len(streams._hub) == 0
    await reader.leave()
    assert streams.count == len(streams._feed_hub) == 0
    assert site.valkey.channels[0].listeners == {}


async def test_a_turn_that_begins_under_the_streams_eyes_is_heard_and_never_read(site, streams, author):
    author.whole()  # a user without a feed has it read first
    reader = await read_user(streams)
    await spin()
    turn = author.accept()
    await spin()
    author.start(turn)
    author.say(turn, "a", "b")
    author.end(turn)
    await reader.until(lambda events: len(states(events)) == 3)
    assert site.valkey.reads == 0
    assert views(reader.events)[turn].text == {"answer": "ab"}
    await reader.leave()


async def test_a_turn_that_starts_before_its_channel_is_heard_is_read(site, streams, author):
    author.whole()  # a user without a feed has it read first
    reader = await read_user(streams)
    await spin()
    turn = author.accept()
    author.start(turn)  # the feed says so before the log's channel is confirmed
    await spin()
    assert site.valkey.reads == 1
    author.say(turn, "a")
    author.end(turn)
    await reader.until(lambda events: len(states(events)) == 3)
    assert views(reader.events)[turn].text == {"answer": "a"}
    await reader.leave()


async def test_a_feed_that_may_have_missed_something_says_of_no_turn_that_it_waits(site, streams, author):
    author.whole()  # a user without a feed has it read first
    reader = await read_user(streams)
    await spin()
    turn = author.accept()
    site.valkey.gate = []
    site.valkey.channels[0].receive(KEYS.feed_channel("ada"), None)  # subscribed anew
    await spin()
    assert site.valkey.reads == 1
    replies, site.valkey.gate = site.valkey.gate, None
    for reply in replies:
        reply.set_result(None)
    author.start(turn)
    author.end(turn)
    await reader.until(lambda events: len(states(events)) == 3)
    await reader.leave()


async def test_live_turns_are_replayed_without_a_cursor(site, streams, author):
    author.whole()
    first, second = author.accept(), author.accept()
    author.start(first)
    author.say(first, "x", "y")
    reader = await read_user(streams)
    await reader.until(lambda events: len(events) == 4)
    author.end(first)
    author.start(second)
    author.end(second)
    events = await reader.until(lambda events: len(states(events)) == 3)
    found = views(events)
    assert {turn: view.text.get("answer", "") for turn, view in found.items()} == {first: "xy", second: ""}
    assert all(view.terminal for view in found.values())
    await reader.leave()


async def test_cut_behind_every_event_and_resumed_on_another_process(site, streams, author):
    reader = await read_user(streams)
    await spin()
    rng = random.Random(7)
    turns = [author.accept() for _ in range(3)]
    await spin()
    for turn in turns:
        author.start(turn)
    for n in range(10):
        author.say(rng.choice(turns), f"{n} ", "+")
        await spin()
    author.end(turns[1])
    author.end(turns[0])
    await spin()
    last = author.accept()
    author.start(last)
    author.say(last, "z")
    author.end(last)
    author.end(turns[2])
    events = await reader.until(lambda events: sum(s[0] == "idle" for s in states(events)) == 4)
    check_order(events)
    assert {turn: view.text.get("answer", "") for turn, view in views(events).items()} == author.said
    async with site.process() as other:
        for cut in range(1, len(events) + 1):
            head = events[:cut]
            again = await read_user(other, head[-1].id)
            missing = len(events) - cut
            await again.until(lambda got, n=missing: len(got) - 1 >= n)
            await spin()
            both = head + [event for event in again.events if event.name != "ready"]
            assert len(both) == len(events)
            assert {turn: view.text.get("answer", "") for turn, view in views(both).items()} == author.said
            assert all(len(view.terminal) == 1 and not view.resyncs for view in views(both).values())
            assert [e.data["data"] for e in both if e.name == "conv_status"].sort(key=str) == [
                e.data["data"] for e in events if e.name == "conv_status"
            ].sort(key=str)
            check_order(both)
            await again.leave()


@pytest.mark.parametrize("seed", range(12))
async def test_a_chain_of_cuts_and_losses(site, author, seed):
    """A client that is cut all the time, between two processes that lose messages, while turns run."""
    rng = random.Random(seed)
    site.valkey.auto = False
    async with site.process() as one, site.process() as two:
        seen: list = []
        reader = await read_user(one)
        await spin()
        running: list[str] = []
        for n in range(200):
            choice = rng.random()
            if len(running) < 4 and choice < 0.2:
                running.append(author.accept())
                author.start(running[-1])
            elif running and choice < 0.35:
                author.end(running.pop(rng.randrange(len(running))))
            elif running and choice < 0.7:
                author.say(rng.choice(running), f"{n} ")
            elif choice < 0.8:
                await site.later(rng.choice((one, two)), rng.choice((1, 6, 20)))
            elif choice < 0.9:
                seen = await cut_off(reader, seen)
                reader = await read_user(rng.choice((one, two)), last_id(seen))
            for channels in site.valkey.channels:
                while channels.undelivered and rng.random() < 0.7:
                    fate = rng.random()
                    if fate < 0.05:
                        channels.undelivered.pop(0)
                    elif fate < 0.1:
                        channels.reconnect()
                    else:
                        channels.deliver()
            await spin(rng.randrange(12))
        for turn in running:
            author.end(turn)
        for channels in site.valkey.channels:
            channels.reconnect()
        await spin()
        total = len(author.said)

        def all_ended(got):
            return sum("completion" in e.data["data"] for e in [*seen, *got] if e.name == "conv_status") == total

        await reader.until(all_ended)
        seen = await cut_off(reader, seen)
        found = views(seen)
        assert {turn: view.text.get("answer", "") for turn, view in found.items()} == author.said
        assert all(len(view.terminal) == 1 and view.resyncs == 0 for view in found.values())
        check_order(seen)
        assert len(one._hub) == len(two._hub) == 0


async def cut_off(reader, seen):
    await reader.leave()
    return seen + reader.events


def last_id(events):
    return next(event.id for event in reversed(events) if event.id)


async def test_two_tabs(site, streams, author):
    tabs = [await read_user(streams, query=f"stream_id=tab{n}") for n in range(2)]
    await spin()
    for _ in range(3):
        author.whole("one ", "two")
    for tab in tabs:
        events = await tab.until(lambda events: sum(s[0] == "idle" for s in states(events)) == 3)
        assert {turn: view.text["answer"] for turn, view in views(events).items()} == author.said
        await tab.leave()


@pytest.mark.parametrize("cursor", ["x", "u1.1.2.3", "t1.1." + "0" * 32 + ".1.1", "u1.1.00000000.00000000.0" + ";zz"])
async def test_a_malformed_cursor(streams, cursor):
    with pytest.raises(InvalidInput) as caught:
        await streams.user_stream(request(cursor), caller())
    assert caught.value.field == "cursor"


async def test_a_cursor_of_another_user_or_one_that_names_anothers_turn(site, streams, author):
    turn = Author(site, "eve").whole()
    author.whole()
    eve, ada = user_tag("eve"), user_tag("ada")
    for cursor in (
        f"u1.1.{eve}.aaaaaaaa.0",
        f"u1.1.{ada}.aaaaaaaa.3;{turn}.1.1",
        f"u1.1.{ada}.aaaaaaaa.3;{'f' * 32}.1.1",
    ):
        with pytest.raises(InvalidInput) as caught:
            await streams.user_stream(request(cursor), caller())
        assert caught.value.field == "cursor"


async def test_the_header_beats_the_query(site, streams, author):
    author.whole()
    good = f"u1.1.{user_tag('ada')}.aaaaaaaa.3"
    reader = await read_user(streams, good, query="stream_id=s1&cursor=nonsense")
    await spin()
    assert names(reader.events) == ["ready"]
    await reader.leave()
    with pytest.raises(InvalidInput):
        await streams.user_stream(request("nonsense", query_cursor=good), caller())


@pytest.mark.parametrize("stale", ["epoch", "feed", "retention", "rolled back"])
async def test_a_stale_cursor_is_resynced(site, streams, author, stale):
    ended, live, quiet = author.accept(), author.accept(), author.accept()
    for turn in (ended, live):
        author.start(turn)
        author.say(turn, "a", "b", "c")
    reader = await read_user(streams)
    await reader.until(lambda events: len(events) == 9)
    seen = list(reader.events)
    await reader.leave()
    author.end(ended)
    site.valkey.expire(ended)
    author.say(live, "d")
    feed = site.valkey.feeds["ada"]
    match stale:
        case "epoch":
            site.valkey.epoch = 2
        case "feed":
            feed.name = "bbbbbbbb"
        case "retention":
            for _ in range(3):
                site.feeds.add("ada", {"type": "conversation.renamed", "conversation_id": "c"})
            cut = len(feed.events) - 1
            feed.first += cut
            del feed.events[:cut]
        case _:
            feed.events.clear()
    async with site.process() as other:
        again = await read_user(other, seen[-1].id)
        await again.until(lambda events: names(events).count("resync") == 3 and "chat_complete" in names(events))
        partial = list(again.events)
        for event in partial[1:]:
            if event.id and names(partial[: partial.index(event)]).count("resync") < 2:
                assert parse_user_cursor(event.id).epoch == 0  # not whole yet
        await again.leave()
        both = seen + partial
        found = views(both)
        assert found[ended].text == {"answer": "abc"}
        assert found[live].text == {"answer": "abcd"}
        assert found[quiet].text == {}
        cursor = next(event.id for event in reversed(partial) if event.id)
        assert ended not in parse_user_cursor(cursor).live or stale == "epoch"
        last = await read_user(other, cursor)
        author.say(live, "e")
        author.end(live)
        await last.until(
            lambda events: "chat_complete" in names(events) and states(events)[-1:] == [("idle", "completed")]
        )
        final = views(both + [event for event in last.events if event.name != "ready"])
        assert final[live].text == {"answer": "abcde"}
        assert final[live].resyncs == 1
        await last.leave()


async def test_a_cut_while_resyncing_resyncs_again(site, streams, author):
    turns = [author.accept() for _ in range(3)]
    for turn in turns:
        author.start(turn)
        author.say(turn, "a")
    reader = await read_user(streams)
    await reader.until(lambda events: len(events) == 7)
    seen = list(reader.events)
    await reader.leave()
    site.valkey.epoch = 2
    async with site.process() as other:
        full = await read_user(other, seen[-1].id)
        await full.until(lambda events: names(events).count("resync") == 3)
        for cut in range(1, len(full.events)):
            some = full.events[:cut]
            cursor = next(event.id for event in reversed(seen + some) if event.id)
            again = await read_user(other, cursor)
            await again.until(lambda events: names(events).count("resync") == 3)
            await again.leave()
        await full.leave()


async def test_signing_in_keeps_what_the_anonymous_user_watched(site, streams):
    anonymous = Author(site, "anon")
    turn = anonymous.accept()
    anonymous.start(turn)
    anonymous.say(turn, "a")
    before = await read_user(streams, user=caller("anon"))
    await before.until(lambda events: len(events) == 3)
    seen = list(before.events)
    await before.leave()
    signed_in = caller("ada", anonymous_user_id="anon")
    reader = await read_user(streams, seen[-1].id, user=signed_in)
    await reader.until(lambda events: "resync" in names(events))
    anonymous.say(turn, "b")
    await reader.until(lambda events: "chat_delta" in names(events))
    middle = reader.events[-1].id
    again = await read_user(streams, middle, user=signed_in)  # ids name the turn of the former identity
    await spin()
    anonymous.end(turn)
    events = await reader.until(lambda events: "chat_complete" in names(events))
    assert views(seen + events)[turn].text == {"answer": "ab"}
    await again.until(lambda events: "chat_complete" in names(events))
    assert not [event for event in again.events if event.name == "resync"]
    assert parse_user_cursor(events[-1].id).tag == user_tag("ada")
    await spin()
    await reader.leave()
    await again.leave()
    with pytest.raises(InvalidInput):
        await streams.user_stream(request(middle), caller("ada"))


async def test_valkey_is_lost_and_rebuilt_in_mid_stream(site, streams, author):
    running, queued = author.accept(), author.accept()
    author.start(running)
    author.say(running, "a")
    reader = await read_user(streams)
    await reader.until(lambda events: len(events) == 3)
    valkey = site.valkey
    valkey.epoch = None
    valkey.logs.clear()
    valkey.feeds.clear()
    valkey.channels[0].reconnect()
    await spin()
    valkey.feeds["ada"] = Feed("cccccccc")
    site.feeds.turn("ada", "turn.accepted", running)
    site.feeds.turn("ada", "turn.accepted", queued)
    valkey.epoch = 2
    await site.later(streams, 1)
    author.said[running] += "b"
    valkey.reopen(running, author.said[running])
    await site.later(streams, 1)
    author.end(running)
    author.start(queued)
    author.say(queued, "q")
    author.end(queued)
    events = await reader.until(lambda events: sum(s[0] == "idle" for s in states(events)) == 2)
    found = views(events)
    assert found[running].text == {"answer": "ab"}
    assert found[running].resyncs == 1
    assert found[queued].text == {"answer": "q"}
    assert parse_user_cursor(events[-1].id).feed == "cccccccc"
    assert parse_user_cursor(events[-1].id).epoch == 2
    await reader.leave()


async def test_a_turn_that_ended_while_valkey_was_rebuilt_is_shown_once_wherever_the_stream_is_cut(
    site, streams, author, monkeypatch
):
    read, readable = site.feeds.read, asyncio.Event()

    async def late(*args):
        await readable.wait()
        return await read(*args)

    turn = author.accept()
    author.start(turn)
    author.say(turn, "a")
    reader = await read_user(streams)
    await reader.until(lambda events: len(events) == 3)
    valkey = site.valkey
    valkey.epoch = None
    valkey.logs.clear()
    valkey.feeds.clear()
    valkey.channels[0].reconnect()
    await spin()
    valkey.feeds["ada"] = Feed("cccccccc")
    site.feeds.turn("ada", "turn.accepted", turn)
    site.feeds.add("ada", {"type": "conversation.renamed", "conversation_id": "c", "title": "t"})
    author.said[turn] += "b"
    valkey.reopen(turn, author.said[turn])
    author.end(turn)
    site.feeds.add("ada", {"type": "conversation.renamed", "conversation_id": "c", "title": "u"})
    monkeypatch.setattr(site.feeds, "read", late)  # its log is there before the feed
    valkey.epoch = 2
    await site.later(streams, 2)
    await reader.until(lambda events: "chat_complete" in names(events))
    readable.set()
    events = await reader.until(lambda events: names(events).count("chat_service") == 2)
    assert names(events).count("chat_complete") == 1
    for cut in range(3, len(events) + 1):
        again = await read_user(streams, [event.id for event in events[:cut] if event.id][-1])
        await spin()
        whole = events[:cut] + again.events
        assert names(whole).count("chat_complete") == 1, cut
        assert views(whole)[turn].text == {"answer": "ab"}
        check_order(whole)
        await again.leave()
    assert parse_user_cursor(events[-1].id).live == {}
    await reader.leave()


async def test_a_turn_whose_end_the_client_has_is_not_shown_again_when_valkey_comes_back_empty(site, streams, author):
    """It is cut behind the end, before the feed has told of it, and nobody knows that log any more."""
    ended, running = author.accept(), author.accept()
    for turn in (ended, running):
        author.start(turn)
        author.say(turn, "a")
    reader = await read_user(streams)
    await reader.until(lambda events: len(events) == 5)
    site.valkey.finish(ended)
    site.turns.add(stored(ended, state=TurnState.COMPLETED, answer="a"))
    first = list(await reader.until(lambda events: "chat_complete" in names(events)))
    await reader.leave()
    valkey = site.valkey
    valkey.logs.clear()
    valkey.feeds.clear()
    valkey.known.discard(ended)
    valkey.feeds["ada"] = Feed("cccccccc")
    site.feeds.turn("ada", "turn.accepted", running)
    valkey.reopen(running, author.said[running])
    valkey.epoch = 2
    async with site.process() as other:
        again = await read_user(other, first[-1].id)
        await again.until(lambda events: "resync" in names(events))
        author.say(running, "b")
        events = first + await again.until(lambda events: "chat_delta" in names(events))
        await spin()
        assert names(events).count("chat_complete") == 1
        assert [event.data["data"]["task_id"] for event in events if event.name == "resync"] == [running]
        assert list(parse_user_cursor(again.events[-1].id).live) == [running]
        assert parse_user_cursor(again.events[-1].id).epoch == 2
        await again.leave()


async def test_more_live_turns_than_a_stream_shows(site, streams, author):
    turns = [author.accept() for _ in range(34)]
    reader = await read_user(streams)
    await spin()
    late = author.accept()
    await spin()
    elsewhere = [e.data["data"]["stream"] for e in reader.events if e.data["type"] == "stream.turn_elsewhere"]
    assert elsewhere == [f"/turns/{turn}/stream" for turn in [*turns[32:], late]]
    for turn in [*turns, late]:
        author.start(turn)
        author.say(turn, "x")
        author.end(turn)
        await spin()
    events = await reader.until(
        lambda events: sum("completion" in e.data["data"] for e in events if e.name == "conv_status") == 35
    )
    assert set(views(events)) == set(turns[:32])
    for event in events:
        if event.id:
            assert len(parse_user_cursor(event.id).live) <= 32
    after = author.whole()
    await reader.until(lambda events: after in views(events))
    await reader.leave()


async def test_withdrawn_turns_and_steers_leave(site, streams, author):
    reader = await read_user(streams)
    await spin()
    running, withdrawn, steer, cancelled = (author.accept() for _ in range(4))
    site.feeds.turn("ada", "turn.withdrawn", withdrawn)
    for state in ("seen", "applied"):
        site.feeds.turn("ada", "steer.receipt", steer, state=state, steered_turn_id=running)
    site.feeds.turn("ada", "steer.receipt", cancelled, state="cancelled", steered_turn_id=running)
    await spin()
    events = await reader.until(lambda events: len(events) == 9)
    assert list(streams._hub._logs) == [running]
    receipts = [e.data for e in events if e.data["type"] == "steer.receipt"]
    assert [(r["data"]["id"], r["data"]["state"]) for r in receipts] == [
        (steer, "seen"),
        (steer, "applied"),
        (cancelled, "cancelled"),
    ]
    await reader.leave()


async def test_a_steer_that_was_applied_and_never_taken_is_shown_as_the_turn_that_it_becomes(site, streams, author):
    reader = await read_user(streams)
    await spin()
    running, steer = author.accept(), author.accept()
    author.start(running)
    site.feeds.turn("ada", "steer.receipt", steer, state="applied", steered_turn_id=running)
    await spin()
    author.end(running)
    author.whole(turn=steer)
    events = await reader.until(lambda events: states(events).count(("idle", "completed")) == 2)
    assert views(events)[steer].text == {"answer": "ab"}
    check_order(events)
    await reader.leave()


async def test_an_end_that_the_feed_tells_again_is_told_once(site, streams, author):
    reader = await read_user(streams)
    await spin()
    turn = author.whole()
    await spin()
    site.feeds.turn("ada", "turn.ended", turn, state=TurnState.COMPLETED)
    after = author.whole()
    events = await reader.until(lambda events: states(events).count(("idle", "completed")) == 2)
    assert [
        e.data["data"]["task_id"] for e in events if e.name == "conv_status" and "completion" in e.data["data"]
    ] == [
        turn,
        after,
    ]
    await reader.leave()


async def test_a_question_for_a_conversations_status_is_answered_on_the_stream(site, streams):
    reader = await read_user(streams)
    await spin()
    site.feeds.add("ada", {"type": "conversation.status", "conversation_id": "c", "state": "idle"})
    events = await reader.until(lambda events: len(events) == 2)
    assert (events[1].name, events[1].data["type"]) == ("conv_status", "conv.status")
    assert events[1].data["data"] == {"conversation_id": "c", "state": "idle"}
    await reader.leave()


async def test_one_conversation_only(site, streams, author):
    mine, other = author.accept(), author.accept()
    reader = await read_user(streams, query=f"stream_id=s1&conversation_id=c-{mine[:4]}")
    await spin()
    for turn in (other, mine):
        author.start(turn)
        author.say(turn, "x")
        author.end(turn)
    site.feeds.add("ada", {"type": "conversation.renamed", "conversation_id": f"c-{mine[:4]}", "title": "t"})
    events = await reader.until(lambda events: events[-1].data["type"] == "conversation.renamed")
    assert set(views(events)) == {mine}
    assert events[-1].name == "chat_service"
    assert events[-1].data["data"] == {"conversation_id": f"c-{mine[:4]}", "title": "t"}
    assert {e.data["data"]["conversation_id"] for e in events if e.name == "conv_status"} == {f"c-{mine[:4]}"}
    await reader.leave()


async def test_a_conversation_stays_in_progress_while_its_next_turn_waits(site, streams, author):
    first = author.accept("aaaa" + "0" * 28)
    reader = await read_user(streams)
    await spin()
    author.start(first)
    second = author.accept("aaaa" + "1" * 28)
    site.feeds._valkey.feeds["ada"].events[-1]["client_turn_id"] = "other"
    await spin()
    author.end(first)
    await reader.until(lambda events: len(states(events)) == 3)
    assert states(reader.events)[1] == ("in_progress", "queued")
    assert second in streams._hub._logs
    await reader.leave()


async def test_positions_of_all_queued_turns_in_one_question(site, streams, author):
    turns = [author.accept() for _ in range(3)]
    readers = [await read_user(streams) for _ in range(2)]
    await spin()
    for n, turn in enumerate(turns, 1):
        site.valkey.positions[turn] = QueuePosition(TurnState.QUEUED, n, 1.0)
    await site.later(streams, 2)
    assert site.valkey.asked_positions == 1
    for reader in readers:
        assert {turn: view.positions for turn, view in views(reader.events).items()} == {
            t: [n] for n, t in enumerate(turns, 1)
        }
        await reader.leave()


async def test_a_position_waits_for_the_row_of_its_turn(site, streams, author):
    turn = author.accept()
    row = site.turns.rows.pop(turn)
    reader = await read_user(streams)
    await spin()
    site.valkey.positions[turn] = QueuePosition(TurnState.QUEUED, 1, 1.0)
    await site.later(streams, 2)
    assert site.valkey.asked_positions == 1
    site.turns.add(row)
    await site.later(streams, 2)
    assert views(reader.events)[turn].positions == [1]
    await reader.leave()


def take_away(site, how):
    site.valkey.epoch, site.valkey.up = (None, True) if how == "rebuilt" else (1, False)


@pytest.mark.parametrize("how", ["rebuilt", "away"])
async def test_a_stream_that_is_opened_while_valkey_is_away_or_rebuilt_waits(site, streams, author, how):
    turn = author.whole("early")
    take_away(site, how)
    opening = asyncio.create_task(streams.user_stream(request(f"u1.1.{user_tag('ada')}.aaaaaaaa.0"), caller()))
    await spin()
    site.valkey.back.set()  # an epoch, but not for long
    await spin()
    assert not opening.done()
    site.valkey.epoch, site.valkey.up = 1, True
    site.valkey.back.set()
    reader = Reader(await opening)
    await reader.until(lambda events: len(states(events)) == 3)
    assert views(reader.events)[turn].text == {"answer": "early"}
    await reader.leave()


@pytest.mark.parametrize("how", ["rebuilt", "away"])
async def test_it_is_refused_when_that_takes_too_long(site, how):
    take_away(site, how)
    async with site.process(StreamSettings(tick_s=3600, opening_wait_s=0)) as streams:
        with pytest.raises(EpochMismatch if how == "rebuilt" else StoreUnavailable):
            await streams.user_stream(request(), caller())


async def test_a_client_that_leaves_while_its_stream_waits_leaves_nothing(site):
    site.valkey.epoch = None
    async with site.process(StreamSettings(tick_s=3600, max_streams=1)) as streams:
        left = asyncio.Event()
        opening = asyncio.create_task(streams.user_stream(request(left=left), caller()))
        await spin()
        with pytest.raises(Unavailable, match="as many streams"):  # one that waits counts
            await streams.user_stream(request(), caller())
        before = asyncio.all_tasks() - {opening}
        left.set()
        with pytest.raises(ClientDisconnect):
            await opening
        assert asyncio.all_tasks() < before
        site.valkey.epoch = 1
        reader = await read_user(streams)
        await spin()
        await reader.leave()
        assert (reader.status, streams.count) == (200, 0)


async def test_without_postgresql_a_stream_does_not_wait_for_an_epoch(site, streams, author):
    author.whole()
    site.turns.up = False
    turn = "0" * 32
    with pytest.raises(StoreUnavailable):
        await streams.user_stream(request(f"u1.1.{user_tag('ada')}.aaaaaaaa.3;{turn}.1.1"), caller())


async def test_a_turn_accepted_between_the_answer_and_the_subscription(site, streams, author):
    response = await streams.user_stream(request(), caller())
    turn = author.whole("early")
    reader = Reader(response)
    events = await reader.until(lambda events: len(states(events)) == 3)
    assert views(events)[turn].text == {"answer": "early"}
    await reader.leave()


async def test_a_feed_that_is_read_in_pages(site, streams, author):
    author.whole()
    reader = await read_user(streams, paused=True)
    for _ in range(100):
        author.whole("w")
        await spin(2)
    cursor = f"u1.1.{user_tag('ada')}.aaaaaaaa.0"
    late = await read_user(streams, cursor)
    await asyncio.gather(
        late.until(lambda events: len(states(events)) == 303),
        spin(),
    )
    reader.resume()
    await reader.until(lambda events: len(states(events)) == 300)
    for one in (late, reader):
        assert all(len(view.terminal) == 1 for view in views(one.events).values())
        await one.leave()
