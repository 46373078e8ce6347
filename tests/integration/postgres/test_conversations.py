"""Conversations: what their owner sees, and nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kdcube.postgres.records import ConversationRefused, Inserted, Page
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio


def ids(page: Page) -> list[str]:
    return [item.conversation_id for item in page.items]


async def test_pages_newest_activity_first(world: World) -> None:
    for n in range(7):
        await world.admit(f"t{n}", f"c{n}")
    await world.admit("again", "c1")
    await world.admit("theirs", "x", "u2")
    seen: list[str] = []
    cursor = None
    while True:
        page = await world.conversations.list("u1", cursor=cursor, limit=3)
        seen += ids(page)
        cursor = page.next
        if cursor is None:
            break
    assert seen == ["c1", "c6", "c5", "c4", "c3", "c2", "c0"]


async def test_conversations_of_the_same_instant_are_listed_once(world: World) -> None:
    for n in range(5):
        await world.admit(f"t{n}", f"c{n}")
    await world.database.fetch("update conversations set last_activity_ms = 1")
    first = await world.conversations.list("u1", limit=2)
    second = await world.conversations.list("u1", limit=2, cursor=first.next)
    third = await world.conversations.list("u1", limit=2, cursor=second.next)
    assert [*ids(first), *ids(second), *ids(third)] == ["c4", "c3", "c2", "c1", "c0"]
    assert third.next is None


@pytest.mark.parametrize("cursor", ["x", "c1.1", "c1.-1.a", "c1.1.a b", "c2.1.a", "c1.1.\0", "c1." + "9" * 30 + ".a"])
async def test_a_malformed_cursor_is_named(world: World, cursor: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.conversations.list("u1", cursor=cursor)
    assert caught.value.field == "cursor"


async def test_a_page_has_bounds(world: World) -> None:
    for limit in (0, -1, 201, 10**12):
        with pytest.raises(InvalidInput) as caught:
            await world.conversations.list("u1", limit=limit)
        assert caught.value.field == "limit"
    with pytest.raises(InvalidInput) as caught:
        await world.conversations.list("u1", query="x" * 201)
    assert caught.value.field == "q"


async def test_search_in_titles_messages_and_answers(world: World) -> None:
    await world.admit("a", "c1", text="Sky and Sea")
    await world.ended("b", "c2", text="something")
    await world.admit("c", "c3", text="first")
    await world.admit("d", "c3", text="it is 100% sure\\")
    await world.admit("e", "c4", "u2", text="sky of another")
    search = world.conversations.list
    assert ids(await search("u1", query="sky")) == ["c1"]
    assert ids(await search("u1", query="ANSWER TO B")) == ["c2"]
    assert ids(await search("u1", query="100%")) == ["c3"]
    assert ids(await search("u1", query="sure\\")) == ["c3"]
    assert ids(await search("u1", query="1_0")) == []
    assert ids(await search("u1", query="\0")) == []
    assert len(ids(await search("u1", query=""))) == 3


async def test_a_conversation_shows_its_active_branch(world: World) -> None:
    for turn_id in ("a", "b", "c"):
        await world.ended(turn_id)
    await world.ended("b2", parent_turn_id="a")
    await world.running("d")
    await world.admit("s", steer_of="d")
    await world.admit("s2", steer_of="d")
    await world.turns.apply_steers("d", "claim", ["s"])
    await world.admit("q")
    await world.admit("timed-out")
    await world.turns.fail_queued("timed-out", {"code": "queue_timeout"}, 1)
    view = await world.conversations.fetch("u1", "c1")
    assert view is not None
    assert view.conversation.head_turn_id == "d"
    assert [entry.turn.turn_id for entry in view.branch] == ["a", "b2", "d"]
    assert [entry.siblings for entry in view.branch] == [("a",), ("b", "b2"), ("d",)]
    assert [steer.turn_id for steer in view.branch[2].steers] == ["s"]
    assert [turn.turn_id for turn in view.pending] == ["s2", "q"]
    assert [turn.turn_id for turn in view.unstarted] == ["timed-out"]


async def test_another_branch_is_shown_down_to_its_newest_turn(world: World) -> None:
    for turn_id in ("a", "b", "c"):
        await world.ended(turn_id)
    await world.ended("b2", parent_turn_id="a")
    selected = await world.conversations.select_branch("u1", "c1", "b")
    assert selected is not None
    assert selected.head_turn_id == "c"
    await world.ended("d")
    assert (await world.row("d")).parent_turn_id == "c"
    await world.admit("queued")
    for turn_id in ("nothing", "queued"):
        assert await world.conversations.select_branch("u1", "c1", turn_id) is None
    assert await world.conversations.select_branch("u2", "c1", "b") is None


async def test_a_running_turn_on_another_branch_is_pending(world: World) -> None:
    await world.ended("a")
    await world.ended("b")
    await world.running("b2", parent_turn_id="a")
    await world.conversations.select_branch("u1", "c1", "b")
    view = await world.conversations.fetch("u1", "c1")
    assert view is not None
    assert [entry.turn.turn_id for entry in view.branch] == ["a", "b"]
    assert [turn.turn_id for turn in view.pending] == ["b2"]


async def test_export_has_every_turn_of_every_branch(world: World) -> None:
    await world.ended("a")
    await world.ended("again", root=True)
    await world.admit("q")
    export = await world.conversations.export("u1", "c1")
    assert export is not None
    assert [turn.turn_id for turn in export.turns] == ["a", "again", "q"]
    assert [turn.answer for turn in export.turns] == ["answer to a", "answer to again", None]


async def test_rename_and_pin(world: World) -> None:
    await world.admit("a")
    renamed = await world.conversations.rename("u1", "c1", "New \0 name")
    pinned = await world.conversations.pin("u1", "c1", True)
    assert renamed is not None
    assert renamed.title == "New � name"
    assert pinned is not None
    assert (pinned.pinned, pinned.title) == (True, renamed.title)


async def test_nothing_of_another_user_is_there(world: World) -> None:
    await world.ended("a")
    mine = world.conversations
    assert await mine.get("u2", "c1") is None
    assert await mine.fetch("u2", "c1") is None
    assert await mine.export("u2", "c1") is None
    assert await mine.rename("u2", "c1", "x") is None
    assert await mine.pin("u2", "c1", True) is None
    assert await mine.delete("u2", "c1", 1) is None
    assert await mine.restore("u2", "c1") is None
    assert (await mine.list("u2")).items == []
    conversation = await mine.get("u1", "c1")
    assert conversation is not None
    assert (conversation.title, conversation.pinned) == ("hello", False)


async def test_delete_hides_and_cancels_and_restore_brings_back(world: World) -> None:
    await world.ended("done")
    await world.running("a")
    await world.admit("s", steer_of="a")
    await world.admit("b")
    cancelled = await world.conversations.delete("u1", "c1", world.now_ms)
    assert cancelled is not None
    assert [(result.turn_id, result.state_after) for result in cancelled] == [
        ("a", TurnState.RUNNING),
        ("s", TurnState.CANCELLED),
        ("b", TurnState.CANCELLED),
    ]
    assert await world.conversations.get("u1", "c1") is None
    assert (await world.conversations.list("u1")).items == []
    assert await world.conversations.delete("u1", "c1", 1) is None
    assert await world.admit("c") == ConversationRefused()
    restored = await world.conversations.restore("u1", "c1")
    assert restored is not None
    assert await world.conversations.get("u1", "c1") == restored
    assert await world.admit("c") == Inserted()


async def test_idle_conversations_change_owner_with_their_turns(world: World) -> None:
    await world.ended("a", "c1", "anon")
    await world.running("b", "c2", "anon")
    await world.ended("c", "c3", "anon")
    await world.conversations.delete("anon", "c3", 1)
    assert await world.conversations.reown("anon", "u1") == ["c1", "c3"]
    assert ids(await world.conversations.list("u1")) == ["c1"]
    assert await world.turns.get("a", "u1") is not None
    assert await world.turns.get("a", "anon") is None
    assert ids(await world.conversations.list("anon")) == ["c2"]
    await world.finish("b")
    assert await world.conversations.reown("anon", "u1") == ["c2"]
    assert await world.conversations.reown("anon", "u1") == []
