"""What is to be erased vanishes at once, is erased when nothing of it runs, and never comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcube.postgres.audit import Actor
from kdcube.postgres.erasing import RETENTION, Erasing
from kdcube.postgres.records import ConversationRefused, Inserted, NotFinished, NotStarted, Refusal
from kdcube.protocol.turns import TurnState

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.anyio

SELF = Actor("u1", "127.0.0.1", "r1")
LATER_MS = 1_800_000_000_000


@pytest.fixture
def erasing(world: World) -> Erasing:
    return Erasing(world.database, "t", "p")


async def erase_all(erasing: Erasing, until_ms: int = LATER_MS) -> list[bool]:
    return [await erasing.erase(each.conversation_id, until_ms) for each in await erasing.marked("", 1000)]


async def content(world: World) -> dict[str, list[str]]:
    """Every row of every table, as text, with the user that it is about."""
    found: dict[str, list[str]] = {}
    for table in ("conversations", "turns", "api_keys", "logins"):
        for row in await world.database.fetch(f"select user_id, x::text as whole from {table} x order by 2"):
            found.setdefault(row["user_id"], []).append(row["whole"])
    return found


async def test_it_vanishes_at_once(world: World, erasing: Erasing):
    await world.ended("t1", "c1", text="a secret")
    await world.running("t2", "c2")
    await world.admit("t3", "c1")
    requested = await erasing.request("u1", SELF, world.now_ms)
    assert requested.erasure.done_ms is None
    assert {result.turn_id: result.state_after for result in requested.cancelled} == {
        "t2": TurnState.RUNNING,
        "t3": TurnState.CANCELLED,
    }
    assert (await world.conversations.list("u1")).items == []
    assert await world.conversations.get("u1", "c1") is None
    assert await world.conversations.restore("u1", "c1") is None
    assert await world.admit("t4", "c1") == ConversationRefused()
    assert await world.conversations.reown("u1", "u2") == []
    (entry,) = (await erasing._audit.list()).items
    assert (entry.act, entry.actor, entry.subject) == ("user.erasure_requested", "u1", "u1")


async def test_what_runs_is_waited_for_and_writes_nothing_back(world: World, erasing: Erasing):
    await world.running("t1", "c1", claim="mine")
    await erasing.request("u1", SELF, world.now_ms)
    assert await erase_all(erasing) == [False]
    await world.finish("t1", "mine", TurnState.CANCELLED, answer="partial", lingers=True)
    assert await erase_all(erasing) == [False]  # its code may still run
    await world.turns.exited("t1")
    assert await erase_all(erasing) == [True]
    assert await world.finish("t1", "mine", answer="after all") == NotFinished(None)
    assert await world.start("t1", "c1", claim="mine") == NotStarted(Refusal.REFUSED, None)
    assert not await world.turns.feedback("t1", "u1", "up", "text")
    assert await content(world) == {}


async def test_a_worker_that_slept_cannot_bring_a_turn_back(world: World, erasing: Erasing):
    """It claimed the turn long ago, and START writes a row that is absent: not one that was erased."""
    admission = world.admission("t1", "c1", "u1", "a secret")
    await world.turns.admit(admission)
    await erasing.request("u1", SELF, world.now_ms)
    assert await erase_all(erasing, admission.accepted_ms + 5) == [True]
    request = world.request("t1", "c1", "u1", "a secret")
    assert request.accepted_ms <= admission.accepted_ms
    assert await world.turns.start(request) == NotStarted(Refusal.REFUSED, None)
    assert await world.turns.admit(admission) == ConversationRefused()
    assert await content(world) == {}


async def test_what_comes_later_is_a_new_life(world: World, erasing: Erasing):
    """Even under the ids of the old one."""
    first = world.admission("t1", "c1")
    await world.turns.admit(first)
    await erasing.request("u1", SELF, world.now_ms)
    await erase_all(erasing, first.accepted_ms)
    assert await world.admit("t1", "c1") == Inserted()
    assert await world.admit("t2", "c2") == Inserted()
    assert await erasing.emptied() != []
    assert len((await world.conversations.list("u1")).items) == 2


async def test_a_receipt_counts_without_content(world: World, erasing: Erasing):
    await world.ended("t1", "c1", text="a secret")
    await world.ended("t2", "c1")
    await world.ended("t3", "c2")
    await world.turns.feedback("t1", "u1", "up", "a secret")
    first = (await erasing.request("u1", SELF, world.now_ms)).erasure
    await world.ended("t4", "c3")
    again = (await erasing.request("u1", Actor("root"), world.now_ms)).erasure
    assert again.erasure_id == first.erasure_id  # one at a time: what is new joins it
    await erase_all(erasing)
    await erasing.close(first.erasure_id)
    receipt = await erasing.get(first.erasure_id, "u1")
    assert receipt is not None
    assert receipt.done_ms is not None
    assert (receipt.conversations, receipt.turns, receipt.feedback) == (3, 4, 1)
    assert "secret" not in repr(receipt)
    assert await erasing.get(first.erasure_id, "u2") is None
    await erasing.close(first.erasure_id)  # maintenance may ask twice
    acts = [(entry.act, entry.actor, entry.subject) for entry in (await erasing._audit.list()).items]
    assert acts == [
        ("user.erased", "system:maintenance", "u1"),
        ("user.erasure_requested", "root", "u1"),
        ("user.erasure_requested", "u1", "u1"),
    ]
    later = (await erasing.request("u1", SELF, world.now_ms)).erasure
    assert later.erasure_id != first.erasure_id


async def test_a_message_that_races_is_erased_or_refused(world: World, erasing: Erasing):
    await world.ended("t0", "c1")
    outcomes = await asyncio.gather(
        erasing.request("u1", SELF, world.now_ms), *(world.admit(f"t{n}", "c1") for n in range(1, 20))
    )
    accepted = [outcome for outcome in outcomes[1:] if isinstance(outcome, Inserted)]
    assert len(await erasing.turns("c1")) == 1 + len(accepted)
    assert await erase_all(erasing) == [True]
    assert await content(world) == {}


async def test_old_conversations_are_erased_in_batches(world: World, erasing: Erasing):
    for number in range(7):
        await world.ended(f"t{number}", f"c{number}", f"u{number % 2}")
    await world.running("t7", "c7")
    young_ms = (await world.conversations.list("u0")).items[0].last_activity_ms
    assert [await erasing.mark_aged(young_ms, 4) for _ in range(3)] == [4, 2, 0]
    assert {each.erasure_id for each in await erasing.marked("", 10)} == {RETENTION}
    assert await erase_all(erasing) == [True] * 6
    left = await world.database.fetch("select conversation_id from conversations order by 1")
    assert [row["conversation_id"] for row in left] == ["c6", "c7"]
    assert await erasing.mark_aged(LATER_MS, 10) == 1  # c7 still runs


async def test_marks_are_read_page_by_page(world: World, erasing: Erasing):
    for number in range(5):
        await world.ended(f"t{number}", f"c{number}")
    await erasing.request("u1", SELF, world.now_ms)
    pages = [[each.conversation_id for each in await erasing.marked(after, 2)] for after in ("", "c1", "c3")]
    assert pages == [["c0", "c1"], ["c2", "c3"], ["c4"]]


async def test_what_was_kept_out_is_forgotten(world: World, erasing: Erasing):
    await world.ended("t1", "c1")
    await erasing.request("u1", SELF, world.now_ms)
    await erase_all(erasing)
    await erasing.forget_before(0)
    assert await world.admit("t1", "c1") == ConversationRefused()
    await erasing.forget_before(LATER_MS * 10)
    assert await world.admit("t1", "c1") == Inserted()


USERS = ["u1", "u2", "u3"]
ACTS = st.tuples(
    st.sampled_from(["ended", "admit", "running", "feedback", "delete", "steer", "credentials"]),
    st.sampled_from(USERS),
    st.integers(0, 3),
)


async def test_nothing_of_another_user_is_touched(database_url: str, world: World, erasing: Erasing):
    """Whatever users have done, and whoever of them is erased."""
    loop = asyncio.get_running_loop()
    connection = await world.connect(database_url)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ACTS, max_size=15), st.sampled_from(USERS))
    def check(acts: list[tuple[str, str, int]], erased: str) -> None:
        asyncio.run_coroutine_threadsafe(one(connection, acts, erased), loop).result(60)

    async def one(connection: asyncpg.Connection, acts: list[tuple[str, str, int]], erased: str) -> None:
        await connection.execute(
            "truncate turns, conversations, api_keys, logins, erasures, erased_conversations, audit_log"
        )
        for number, (act, user, conversation) in enumerate(acts):
            steered = number and acts[number - 1][1:] == (user, conversation)
            await do(number, act if steered or act != "steer" else "admit", user, conversation)
        before = await content(world)
        await erasing.request(erased, Actor(erased), world.now_ms)
        for turn_id in [row["turn_id"] for row in await connection.fetch(RUNNING, erased)]:
            await world.finish(turn_id, f"claim-{turn_id}", TurnState.CANCELLED)
        assert all(await erase_all(erasing))
        before.pop(erased, None)
        assert await content(world) == before

    async def do(number: int, act: str, user: str, conversation: int) -> None:
        turn, where = f"turn{number}", f"{user}-{conversation}"
        args: tuple[Any, ...] = (turn, where, user)
        match act:
            case "ended":
                if isinstance(await world.admit(*args), Inserted):
                    await world.start(*args, claim=f"claim-{turn}")
                    await world.finish(turn, f"claim-{turn}")
            case "admit":
                await world.admit(*args)
            case "running":
                if isinstance(await world.admit(*args), Inserted):
                    await world.start(*args, claim=f"claim-{turn}")
            case "feedback":
                await world.turns.feedback(f"turn{number - 1}", user, "up", None)
            case "delete":
                await world.conversations.delete(user, where, world.now_ms)
            case "credentials":
                await world.database.fetch(KEY, user, turn)
                await world.database.fetch(LOGIN, user, turn.encode())
            case _:
                await world.admit(*args, steer_of=f"turn{number - 1}")

    await asyncio.to_thread(check)


RUNNING = "select turn_id from turns where user_id = $1 and state = 'running'"
KEY = """
insert into api_keys (tenant, project, key_id, secret_hash, name, user_id, user_type, roles, scopes, created_by,
  created_ms, expires_ms) values ('t', 'p', $2, '', 'n', $1, 'registered', '{}', '{}', $1, 0, 0)"""
LOGIN = """
insert into logins (tenant, project, cookie_hash, login_id, user_id, issuer, claims, sealed_by, opened_ms, used_ms,
  idle_ms, expires_ms) values ('t', 'p', $2, 'l', $1, 'i', '', 'k', 0, 0, 0, 0)"""
