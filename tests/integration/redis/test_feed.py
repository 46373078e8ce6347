"""Feeds: offsets that the feed assigns, the live turns beside them, and what is published."""

from __future__ import annotations

import pytest
from tests.integration.redis.partition import a_message

from kdcube.protocol.turns import Policy, TurnState
from kdcube.redis.feed import PAGE_ENTRIES, FeedChange, FeedPage, decode_feed_change

pytestmark = pytest.mark.anyio


def renamed(number: int) -> dict[str, object]:
    return {"type": "conversation.renamed", "title": f"Title {number}"}


async def test_a_user_without_a_feed(partition):
    assert await partition.feeds.read("nobody", None) == FeedPage(1, "", 0, 0, {}, [])
    assert await partition.feeds.read("nobody", 7) == FeedPage(1, "", 0, 0, {}, [])


async def test_notices_are_numbered_and_read_from_any_offset(partition):
    assert [await partition.feeds.notify("ann", renamed(number)) for number in range(1, 4)] == [1, 2, 3]
    whole = await partition.feeds.read("ann", 0)
    assert (whole.tail, whole.first, whole.live) == (3, 1, {})
    for after in range(5):
        page = await partition.feeds.read("ann", after)
        assert page.events == [(number, renamed(number)) for number in range(after + 1, 4)]
        assert page.feed == whole.feed and len(page.feed) == 8
    assert (await partition.feeds.read("ann", None)).events == []


async def test_feeds_of_users_are_apart(partition):
    await partition.feeds.notify("ann", renamed(1))
    assert await partition.feeds.notify("bob", renamed(2)) == 1


async def test_live_turns_are_those_accepted_and_not_ended(partition):
    """Rule 18: with the offset at which each was accepted."""
    first, second = await partition.admitted(conversation="a"), await partition.admitted(conversation="b")
    claim = await partition.running(first)
    steer = a_message(conversation="a", policy=Policy.STEER)
    await partition.admit(steer)
    page = await partition.feeds.read("ann", None)
    assert (page.tail, page.live) == (5, {first.turn_id: 1, second.turn_id: 2, steer.turn_id: 4})
    await partition.finish(claim)
    page = await partition.feeds.read("ann", None)
    assert page.live == {second.turn_id: 2, steer.turn_id: 4}
    await partition.run_all()
    assert (await partition.feeds.read("ann", None)).live == {}


async def test_changes_are_published_with_their_offset_and_the_name_of_the_feed(partition):
    async with partition.listening(partition.keys.feed_channel("ann")) as heard:
        await partition.feeds.notify("ann", renamed(1))
        message = await partition.admitted()
        changes = [decode_feed_change(await heard.get()) for _ in range(2)]
    name = (await partition.feeds.read("ann", None)).feed
    assert changes[0] == FeedChange(name, 1, renamed(1))
    assert (changes[1].offset, changes[1].event["turn_id"]) == (2, message.turn_id)


async def test_all_that_happens_to_a_turn_is_told_in_order(partition):
    message = await partition.admitted()
    claim = await partition.running(message)
    await partition.finish(claim, TurnState.FAILED)
    assert [(event["type"], event.get("state")) for event in await partition.feed_events()] == [
        ("turn.accepted", None),
        ("turn.started", None),
        ("turn.ended", "failed"),
    ]
    assert {event["client_turn_id"] for event in await partition.feed_events()} == {message.client_turn_id}


async def test_a_long_feed_comes_in_pages_and_forgets_its_beginning(partition):
    for number in range(2300):
        await partition.feeds.notify("ann", renamed(number))
    page = await partition.feeds.read("ann", 0)
    assert page.tail == 2300
    assert 1 < page.first <= 2300 - 2000 + 1  # trimmed, but never below what is promised
    assert len(page.events) == PAGE_ENTRIES and page.events[0][0] == page.first
    last = await partition.feeds.read("ann", 2299)
    assert [offset for offset, _ in last.events] == [2300]


async def test_a_feed_that_expired_begins_again_under_another_name(partition):
    await partition.feeds.notify("ann", renamed(1))
    await partition.feeds.notify("ann", renamed(2))
    name = (await partition.feeds.read("ann", None)).feed
    await partition.connection.call("DEL", partition.keys.live("ann"))
    assert await partition.feeds.notify("ann", renamed(3)) == 1
    page = await partition.feeds.read("ann", 0)
    assert page.feed != name and page.events == [(1, renamed(3))]


async def test_a_feed_goes_on_through_a_rebuild(partition):
    message = await partition.admitted()
    await partition.finish(await partition.running(message))
    before = await partition.feeds.read("ann", None)
    partition.epoch = 2
    await partition.open()
    after = await partition.feeds.read("ann", None)
    assert (after.epoch, after.feed, after.tail) == (2, before.feed, before.tail)


async def test_offsets_of_a_long_life_stay_exact(partition):
    await partition.feeds.notify("ann", renamed(1))
    await partition.connection.call("HSET", partition.keys.live("ann"), "#t", 10**15)
    assert await partition.feeds.notify("ann", renamed(2)) == 10**15 + 1
    page = await partition.feeds.read("ann", 10**15)
    assert page.tail == 10**15 + 1 and page.events == [(10**15 + 1, renamed(2))]
