"""Another user's conversations, turns and cursors: refused, and nothing of them is told."""

from __future__ import annotations

import pytest
from tests.e2e.client import Client, Refused, answer, is_mark, told_end_of

pytestmark = pytest.mark.anyio

SECRET = "the-secret-text"


@pytest.fixture(params=["registered", "anonymous"])
def stranger(request, trial_stack, connect) -> Client:
    return connect(trial_stack, "" if request.param == "anonymous" else None)


@pytest.fixture
async def owner(trial_stack, connect) -> Client:
    return connect(trial_stack)


def kept(response, status: int) -> None:
    """Refused in the pinned shape, without a word of what is there."""
    assert response.status_code == status, response.text
    told = response.json()
    assert {"error", "message", "request_id"} <= told.keys() <= {"error", "message", "field", "request_id"}
    assert SECRET not in response.text
    assert "user-" not in response.text


async def test_nothing_of_a_conversation_is_served_to_another(owner, stranger, gate):
    sent = await owner.sent(SECRET, turn_id="owners-turn", trial={"hold": str(gate)})
    conversation, turn = sent["conversation_id"], sent["task_id"]
    await stranger.ask("GET", "/profile")
    path = f"/conversations/{conversation}"
    for method, sub, body in [
        ("GET", "", None),
        ("PATCH", "", {"title": "mine"}),
        ("DELETE", "", None),
        ("POST", "/restore", None),
        ("GET", "/export", None),
        ("GET", "/export?format=md", None),
        ("PUT", f"/turns/{turn}/feedback", {"reaction": "up"}),
        ("POST", f"/turns/{turn}/retry", None),
    ]:
        kept(await stranger.ask(method, path + sub, json=body), 404)
    for cancel in ({"turn_id": turn}, {"turn_id": "owners-turn"}, {"conversation_id": conversation}):
        kept(await stranger.ask("POST", "/sse/cancel", json=cancel), 404)
    kept(await stranger.ask("POST", "/sse/conv_status.get", json={"conversation_id": conversation}), 404)
    listed = await stranger.ask("GET", "/conversations", params={"q": SECRET})
    assert listed.json() == {"items": [], "next": None}
    gate.open()
    assert answer(await owner.ended(turn)) == SECRET
    assert (await owner.conversation(conversation))["title"] != "mine"


@pytest.mark.parametrize("policy", ["enqueue", "steer", "interrupt", "reject"])
async def test_a_message_into_anothers_conversation_is_refused(owner, stranger, gate, policy):
    """While a turn runs there, and when it is idle: it changes nothing, and says the same in both cases."""
    sent = await owner.sent(SECRET, trial={"hold": str(gate)})
    refusals = []
    for _ in ("running", "idle"):
        response = await stranger.send("let me in", conversation_id=sent["conversation_id"], policy=policy, at=1)
        kept(response, 404)
        refusals.append({**response.json(), "request_id": ""})
        gate.open()
        assert answer(await owner.ended(sent["task_id"])) == SECRET
    assert refusals[0] == refusals[1]
    assert list(await owner.stored(sent["conversation_id"])) == [sent["task_id"]]
    assert (await stranger.ask("GET", "/conversations")).json()["items"] == []


async def test_an_edit_of_anothers_turn_is_refused(owner, stranger):
    sent = await owner.sent(SECRET)
    await owner.ended(sent["task_id"])
    kept(await stranger.send("edited", parent_turn_id=sent["task_id"]), 404)


async def test_anothers_turn_cannot_be_read(owner, stranger, gate):
    sent = await owner.sent(SECRET, turn_id="owners-turn", trial={"hold": str(gate)})
    await stranger.ask("GET", "/profile")
    async with owner.turn_stream(sent["task_id"]) as stream:
        first = await stream.until(lambda event: event.offset == 1)
    for turn in (sent["task_id"], "owners-turn"):
        for cursor in (None, first.id):
            with pytest.raises(Refused) as refused:
                async with stranger.turn_stream(turn, cursor=cursor, at=1):
                    pass
            kept(refused.value.response, 404)


async def test_anothers_cursor_is_refused(owner, stranger):
    async with owner.user_stream() as stream:
        await stream.until(lambda event: event.name == "ready")
        sent = await owner.sent(SECRET)
        await stream.until(told_end_of(sent["task_id"]))
    own = await stranger.sent("own", at=1)
    await stranger.ended(own["task_id"])
    async with stranger.user_stream() as stream:
        ready = await stream.until(lambda event: event.name == "ready")
    owners_turn = (await owner.ended(sent["task_id"]))[0].id
    grafted = f"{ready.data['cursor']};{sent['task_id']}.1.1"  # one's own cursor, with another's turn in it
    for cursor in {event.id for event in stream.events if event.id} | {grafted, owners_turn}:
        if cursor == ready.data["cursor"]:
            continue
        with pytest.raises(Refused) as refused:
            async with stranger.user_stream(cursor=cursor, at=1):
                pass
        kept(refused.value.response, 400)
    with pytest.raises(Refused) as refused:
        async with stranger.turn_stream(own["task_id"], cursor=owners_turn, at=1):
            pass
    kept(refused.value.response, 400)


async def test_a_users_stream_shows_nobody_elses_events(owner, stranger):
    await stranger.ask("GET", "/profile")
    async with stranger.user_stream(at=1) as stream:
        await stream.until(lambda event: event.name == "ready")
        sent = await owner.sent(SECRET)
        await owner.ended(sent["task_id"])
        await owner.mark(sent["conversation_id"], SECRET)
        own = await stranger.sent("own")
        await stream.until(told_end_of(own["task_id"]))
        await stranger.mark(own["conversation_id"])
        await stream.until(is_mark)
    assert {event.turn for event in stream.events} == {None, own["task_id"]}
    assert SECRET not in str(stream.events)


async def test_the_same_turn_id_of_two_users_names_two_turns(owner, stranger):
    mine = await owner.sent(SECRET, turn_id="turn_1")
    yours = await stranger.sent("yours", turn_id="turn_1")
    assert mine["task_id"] != yours["task_id"]
    assert answer(await stranger.ended("turn_1", at=1)) == "yours"
    assert answer(await owner.ended("turn_1", at=1)) == SECRET


async def test_who_is_nobody_is_refused(trial_stack, connect, owner):
    sent = await owner.sent(SECRET)
    for token in ("", "no-such-token"):
        nobody = connect(trial_stack, token)
        for method, path in [
            ("GET", f"/turns/{sent['task_id']}/stream"),
            ("GET", f"/conversations/{sent['conversation_id']}"),
            ("GET", "/conversations"),
            ("POST", "/sse/cancel"),
        ]:
            response = await nobody.ask(method, path, json={"turn_id": sent["task_id"]})
            kept(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
    forged = connect(trial_stack, "")
    forged.http.cookies.set("kdcube_session", "a1.1.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    kept(await forged.ask("GET", "/conversations"), 401)


async def test_another_users_session_id_is_refused(owner, trial_stack, connect):
    session = (await owner.ask("GET", "/profile")).json()["session_id"]
    other = connect(trial_stack)
    kept(await other.ask("GET", "/conversations", headers={"User-Session-ID": session}), 403)
    anonymous = connect(trial_stack, "")
    kept(await anonymous.ask("GET", "/conversations", headers={"User-Session-ID": session}), 401)
