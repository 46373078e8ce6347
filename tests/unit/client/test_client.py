"""The client on a fake installation: what it repeats, what it tells, and that streams go on where they were cut."""

from __future__ import annotations

import json

import httpx
import pytest
from tests.unit.client.installation import (
    API,
    Installation,
    accepted,
    complete,
    cut,
    delta,
    problem,
    resync,
    start,
    stream,
)

from kdcube.client import Client, ClientError, Event, Reading, Refused, Unreachable

pytestmark = pytest.mark.anyio

PROFILE = {"user_type": "anonymous", "user_id": "anon-1", "session_id": "a1.new", "bundles": [], "surprise": 1}


async def followed(client: Client, cursor: str | None = None) -> tuple[list[Event], Reading]:
    reading, events = Reading(), []
    async with client:
        async for event in client.follow("t1", cursor=cursor):
            reading.add(event)
            events.append(event)
    return events, reading


# --- who


async def test_an_anonymous_caller_keeps_the_session_that_it_was_given():
    installation = Installation(httpx.Response(200, json=PROFILE), accepted())
    async with installation.client(session_id="a1.old") as client:
        assert (await client.sign_in()).user_id == "anon-1"
        await client.send("Hello")
        assert client.session_id == "a1.new"
    assert installation.header("user-session-id") == ["a1.old", "a1.new"]
    assert str(installation.asked[0].url) == f"{API}/profile"


async def test_a_token_goes_in_the_header_alone():
    installation = Installation(httpx.Response(200, json=PROFILE), accepted())
    async with installation.client(token="secret") as client:
        await client.sign_in()
        await client.send("Hello")
        assert client.session_id is None
    assert installation.header("authorization") == ["Bearer secret"] * 2
    assert installation.header("user-session-id") == [None] * 2
    assert not any("secret" in str(request.url) for request in installation.asked)


async def test_at_first_nobody_there_is_told_at_once():
    installation = Installation(httpx.ConnectError("All connection attempts failed"))
    async with installation.client() as client:
        with pytest.raises(Unreachable) as caught:
            await client.sign_in()
    assert caught.value.nobody
    assert installation.pauses == []


async def test_what_is_no_kdcube_is_told():
    installation = Installation(httpx.Response(200, text="<html>"), httpx.Response(404, text="<html>"))
    async with installation.client() as client:
        with pytest.raises(ClientError, match="does not answer as KDCube does"):
            await client.sign_in()
        with pytest.raises(Refused, match="404"):
            await client.sign_in()


# --- sending


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ReadError("gone"),
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("All connection attempts failed"),
        problem(503, "outcome_unknown", retry_after_s=2),
        problem(503, "rebuilding", retry_after_s=2),
        httpx.Response(502, text="<html>"),
    ],
)
async def test_a_message_whose_outcome_is_unknown_is_sent_again_under_its_key(failure):
    installation = Installation(failure, failure, accepted(duplicate=True))
    async with installation.client() as client:
        assert (await client.send("Hello")).duplicate
    keys = installation.header("idempotency-key")
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0] is not None
    assert len({request.content for request in installation.asked}) == 1
    assert len(installation.told) == 2


async def test_each_message_has_a_key_of_its_own():
    installation = Installation(accepted(), accepted())
    async with installation.client() as client:
        await client.send("Hello")
        await client.send("Hello")
    assert len(set(installation.header("idempotency-key"))) == 2


async def test_what_a_message_says_and_nothing_else_is_sent():
    installation = Installation(accepted(), accepted())
    async with installation.client() as client:
        await client.send("Hello")
        await client.send("Stop", conversation_id="c1", bundle_id="b@1", policy="steer", payload={"a": 1})
    assert [json.loads(request.content)["message"] for request in installation.asked] == [
        {"text": "Hello"},
        {"text": "Stop", "conversation_id": "c1", "bundle_id": "b@1", "policy": "steer", "payload": {"a": 1}},
    ]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((400, "invalid_input"), (401, "invalid_token"), (403, "forbidden"), (409, "conversation_busy")),
        *((429, "rate_limit_burst"), (503, "queue_full"), (503, "no_capacity"), (500, "internal")),
    ],
)
async def test_a_refusal_is_told_at_once(status, error):
    installation = Installation(problem(status, error, field="message.text", retry_after_s=7))
    async with installation.client() as client:
        with pytest.raises(Refused) as caught:
            await client.send("Hello")
    refused = caught.value
    assert (refused.status, refused.error, refused.field, refused.retry_after_s, refused.request_id) == (
        status,
        error,
        "message.text",
        7,
        "r",
    )
    assert len(installation.asked) == 1


async def test_patience_ends():
    installation = Installation(*[httpx.ReadError("gone")] * 100)
    async with installation.client(patience_s=60) as client:
        with pytest.raises(Unreachable):
            await client.send("Hello")
    assert sum(installation.pauses) <= 60
    assert len(installation.pauses) > 5
    assert max(installation.pauses) <= 8


async def test_a_server_that_names_a_pause_is_given_it():
    installation = Installation(problem(503, "store_unavailable", retry_after_s=5), accepted())
    async with installation.client() as client:
        await client.send("Hello")
    assert installation.pauses == [5]


# --- streams


async def test_a_stream_is_read_to_the_end_of_its_turn():
    installation = Installation(stream(start("1"), delta("Hel", "2"), delta("lo", "3"), complete("4")))
    events, reading = await followed(installation.client())
    assert [event.name for event in events] == ["chat_start", "chat_delta", "chat_delta", "chat_complete"]
    assert (reading.answer, reading.state) == ("Hello", "completed")
    assert installation.header("last-event-id") == [None]


async def test_a_stream_goes_on_behind_the_last_event_that_was_whole():
    half = delta("never", "9")[:-1]
    installation = Installation(
        cut(start("1"), delta("one ", "2"), half),
        httpx.ConnectError("All connection attempts failed"),
        httpx.Response(503, text="restarting"),
        cut(),
        stream(delta("two ", "3")),  # drained: it closes without an end
        stream(delta("three", "4"), complete("5")),
    )
    events, reading = await followed(installation.client())
    assert installation.header("last-event-id") == [None, "2", "2", "2", "2", "3"]
    assert reading.answer == "one two three"
    assert [event.id for event in events] == ["1", "2", "3", "4", "5"]


async def test_an_event_without_an_id_does_not_move_the_cursor():
    installation = Installation(cut(start("1"), delta("aside")), stream(complete("2")))
    await followed(installation.client(), cursor="0")
    assert installation.header("last-event-id") == ["0", "1"]


async def test_pauses_grow_until_something_is_heard():
    installation = Installation(*(cut() for _ in range(4)), cut(start("1")), stream(complete("2")))
    await followed(installation.client())
    least = [0.125, 0.25, 0.5, 1.0, 0.125]
    assert all(low <= pause <= 2 * low for low, pause in zip(least, installation.pauses, strict=True))


async def test_the_server_says_how_soon_to_come_back():
    installation = Installation(cut(b"retry: 4000\n\n", start("1")), stream(complete("2")))
    await followed(installation.client())
    assert 2 <= installation.pauses[0] <= 4


async def test_a_stream_that_is_refused_is_not_asked_for_again():
    installation = Installation(cut(start("1")), problem(401, "unauthorized"))
    with pytest.raises(Refused):
        await followed(installation.client())


async def test_patience_counts_from_the_last_sign_of_life():
    alive = [cut(b": keep-alive\n\n") for _ in range(30)]
    installation = Installation(*alive, stream(start("1"), complete("2")))
    _, reading = await followed(installation.client(patience_s=20))
    assert reading.state == "completed"
    assert sum(installation.pauses) > 20


async def test_a_resync_replaces_what_was_read():
    installation = Installation(cut(start("1"), delta("lost ", "2")), stream(resync("found ", id_="7"), complete("8")))
    _, reading = await followed(installation.client())
    assert reading.answer == "found "


async def test_data_that_is_no_json_is_told():
    installation = Installation(stream(b"data: oops\n\n"))
    with pytest.raises(ClientError, match="no JSON"):
        await followed(installation.client())


# --- conversations


async def test_conversations_are_searched_and_paged():
    item = {"conversation_id": "c1", "title": "A", "started_at": "x", "last_activity_at": "2026-01-01T00:00:00Z"}
    installation = Installation(httpx.Response(200, json={"items": [item], "next": "n1"}))
    async with installation.client() as client:
        page = await client.conversations(search="a b", cursor="n0", limit=5)
    assert (page.items[0].title, page.next) == ("A", "n1")
    assert dict(installation.asked[0].url.params) == {"limit": "5", "q": "a b", "cursor": "n0"}


async def test_a_cancel_says_whether_it_came_in_time():
    installation = Installation(
        httpx.Response(200, json={"status": "cancelling"}), httpx.Response(200, json={"status": "already_ended"})
    )
    async with installation.client() as client:
        assert await client.cancel("t1")
        assert not await client.cancel("t1")
