"""Input that is not valid: told in one shape which field is wrong, nothing is admitted, nothing internal is shown."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.e2e.client import PREFIX, Client, is_mark

pytestmark = pytest.mark.anyio

INTERNAL = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|/kdcube|/tmp/|/root|/work|redis://|postgres(ql)?://|127\.0\.0\.1|asyncpg|hiredis"
    r"|msgspec|starlette|uvicorn|Exception\b|select |insert into",
    re.IGNORECASE,
)


def message(**members: Any) -> dict[str, Any]:
    return {"json": {"message": {"text": "hello", **members}}}


def raw(content: bytes, type_: str = "application/json") -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": type_}}


CHAT: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "nothing": (raw(b""), 400, "body"),
    "cut JSON": (raw(b'{"message": {"text": "hel'), 400, "body"),
    "JSON and more": (raw(b'{"message": {"text": "hello"}} x'), 400, "body"),
    "no JSON": (raw(b"message=hello", "application/x-www-form-urlencoded"), 400, "body"),
    "an array": (raw(b"[]"), 400, "body"),
    "null": (raw(b"null"), 400, "body"),
    "no message": (raw(b"{}"), 400, "body"),
    "a text as message": ({"json": {"message": "hello"}}, 400, "message"),
    "a number as text": (message(text=5), 400, "message.text"),
    "an empty text": (message(text=""), 400, "message.text"),
    "an over-long text": (message(text="x" * 100_001), 400, "message.text"),
    "invalid UTF-8": (raw(b'{"message": {"text": "\xc3\x28"}}'), 400, "body"),
    "UTF-16": (raw('{"message": {"text": "hello"}}'.encode("utf-16")), 400, "body"),
    "a lone surrogate": (raw(b'{"message": {"text": "\\udc00"}}'), 400, "body"),
    "NaN": (raw(b'{"message": {"payload": {"a": NaN}}}'), 400, "body"),
    "deep nesting": (raw(b'{"message": {"payload": ' + b'{"a":' * 5000 + b"1" + b"}" * 5002), 400, "body"),
    "an unknown bundle": (message(bundle_id="nobody@1.0.0"), 400, "message.bundle_id"),
    "a path as bundle": (message(bundle_id="../../etc/passwd"), 400, "message.bundle_id"),
    "an unknown policy": (message(policy="shout"), 400, "message.policy"),
    "a list as payload": (message(payload=[1]), 400, "message.payload"),
    "a large payload": (message(payload={"a": "x" * 66_000}), 400, "message.payload"),
    "a huge number": (message(payload={"a": 2**64}), 400, "message.payload"),
    "a turn id with a space": (message(turn_id="a b"), 400, "message.turn_id"),
    "a long turn id": (message(turn_id="x" * 129), 400, "message.turn_id"),
    "a line feed in an id": (message(turn_id="a\nid: 5"), 400, "message.turn_id"),
    "a separator in an id": (message(conversation_id="a\x1fb"), 400, "message.conversation_id"),
    "a path as conversation": (message(conversation_id="../x"), 400, "message.conversation_id"),
    "an unknown parent": (message(parent_turn_id="nothing"), 404, "message.parent_turn_id"),
    "a bad key": (message() | {"headers": {"Idempotency-Key": "a b"}}, 400, "Idempotency-Key"),
    "a body over the limit": (raw(b'{"message": {"text": "' + b"x" * (1 << 20) + b'"}}'), 413, None),
    "no form": (raw(b"hello", "multipart/form-data"), 400, "body"),
    "a form that ends early": (
        raw(b'--b\r\nContent-Disposition: form-data; name="message', "multipart/form-data; boundary=b"), 400, None
    ),
    "a form without a message": ({"files": {"other": (None, "x")}}, 400, "message"),
    "a form of invalid UTF-8": ({"files": {"message": (None, b'{"message": {"text": "\xff"}}')}}, 400, "message"),
    "a form with a file": (
        {"files": {"message": (None, json.dumps(message()["json"])), "files": ("a.txt", b"x")}}, 400, "files"
    ),
    "many fields": ({"files": [(f"f{n}", (None, "x")) for n in range(100)]}, 400, "body"),
}  # fmt: skip


@pytest.fixture
async def client(trial_stack, connect) -> Client:
    return connect(trial_stack)


def refused(response: httpx.Response, status: int, field: str | None = None) -> None:
    """In the pinned shape, with nothing internal in it."""
    assert response.status_code == status, response.text
    told = response.json()
    assert response.headers["content-type"] == "application/json"
    assert (
        {"error", "message", "request_id"}
        <= told.keys()
        <= {"error", "message", "field", "retry_after_s", "request_id"}
    )
    assert told["request_id"] == response.headers["x-request-id"]
    assert told["message"]
    assert field is None or told["field"] == field
    assert INTERNAL.search(response.text) is None, response.text


async def nothing_admitted(client: Client) -> None:
    """The first turn that the user's stream ever tells of is the one that is sent now."""
    assert (await client.ask("GET", "/conversations")).json()["items"] == []
    async with client.user_stream() as stream:
        await stream.until(lambda event: event.name == "ready")
        turn = await client.sent("this one is fine", at=1)
        await client.ended(turn["task_id"])
        await client.mark(turn["conversation_id"])
        await stream.until(is_mark)
    assert {event.turn for event in stream.events} == {None, turn["task_id"]}


@pytest.mark.parametrize("case", CHAT)
async def test_a_bad_message(client, case):
    request, status, field = CHAT[case]
    refused(await client.ask("POST", "/sse/chat", **request), status, field)
    refused(await client.ask("POST", "/sse/chat?stream_id=s", at=1, **request), status, field)


async def test_of_all_bad_messages_none_is_admitted(client):
    answers = await asyncio.gather(
        *(client.ask("POST", "/sse/chat", at=n, **request) for n, (request, _, _) in enumerate(CHAT.values()))
    )
    assert [answer.status_code for answer in answers] == [status for _, status, _ in CHAT.values()]
    await nothing_admitted(client)


async def test_a_character_that_cannot_be_stored_is_replaced_in_titles_and_searches(client):
    """U+0000; in messages and answers as well: see the test of text of every kind."""
    turn = await client.sent()
    await client.ended(turn["task_id"])
    await client.mark(turn["conversation_id"], "c\x00d")
    assert (await client.conversation(turn["conversation_id"]))["title"] == "c\ufffdd"
    found = await client.ask("GET", "/conversations", params={"q": "c\x00"})
    assert [item["title"] for item in found.json()["items"]] == ["c\ufffdd"]


HEAD = f"POST {PREFIX}/sse/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-alice\r\n"


async def answered(client: Client, head: str, body: bytes = b"") -> bytes:
    """The status line of the answer to a request whose ``body`` is repeated until it comes."""
    address = urlsplit(client.urls[0])
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head.encode())
        answer = asyncio.create_task(reader.readline())
        while body and not answer.done():
            writer.write(body)
            await writer.drain()
            await asyncio.sleep(0)
        return await asyncio.wait_for(answer, 60)
    finally:
        writer.close()


async def test_an_endless_body_is_refused_while_it_is_sent(client):
    endless = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"
    assert (await answered(client, endless, b"10000\r\n" + b"x" * 65536 + b"\r\n")).startswith(b"HTTP/1.1 413 ")
    await nothing_admitted(client)


async def test_a_length_over_the_limit_is_refused_before_the_body(client):
    assert (await answered(client, f"{HEAD}Content-Length: 99999999999\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("head", [f"{HEAD}Content-Length: many\r\n\r\n", "BREW / HTTP/1.1\r\n\r\n", "\x00\r\n\r\n"])
async def test_what_is_no_http_is_refused(client, head):
    assert (await answered(client, head)).startswith(b"HTTP/1.1 400 ")


CURSORS = ["x", "u1", "u1.1.2.3", "t1.1." + "0" * 32 + ".1.1", "u1.1.{tag}.{feed}.-1", "u1.1.{tag}.{feed}.1;x.1.1",
           "u1.1.{tag}.{feed}.1" + ";" + "0" * 32 + ".1.1", "u1.1.00000000.{feed}.1",
           "u1.1.{tag}.{feed}.1" + (";" + "0" * 32 + ".1.1") * 33, "u1." + "9" * 5000]  # fmt: skip


@pytest.mark.parametrize("by_query", [False, True])
@pytest.mark.parametrize("cursor", CURSORS, ids=range(len(CURSORS)))
async def test_a_malformed_or_foreign_cursor_of_a_user(client, cursor, by_query):
    async with client.user_stream() as stream:
        ready = await stream.until(lambda event: event.name == "ready")
    _, _, tag, feed, _ = ready.data["cursor"].split(".")
    cursor = cursor.format(tag=tag, feed=feed)
    where = {"params": {"cursor": cursor}} if by_query else {"headers": {"Last-Event-ID": cursor}}
    refused(await client.ask("GET", "/sse/stream", at=1, **where), 400, "cursor")


ONE = "/conversations/{conversation}"
FEEDBACK = ONE + "/turns/{turn}/feedback"
REQUESTS: dict[str, tuple[str, str, dict[str, Any], int, str | None]] = {
    "a huge page": ("GET", "/conversations?limit=100000", {}, 400, "limit"),
    "a huge number as page": ("GET", "/conversations?limit=" + "9" * 400, {}, 400, "limit"),
    "no page": ("GET", "/conversations?limit=0", {}, 400, "limit"),
    "a negative page": ("GET", "/conversations?limit=-1", {}, 400, "limit"),
    "no number": ("GET", "/conversations?limit=ten", {}, 400, "limit"),
    "a bad list cursor": ("GET", "/conversations?cursor=x", {}, 400, "cursor"),
    "an SQL cursor": ("GET", "/conversations?cursor=1%27%20or%20%271%27=%271", {}, 400, "cursor"),
    "a long search": ("GET", "/conversations?q=" + "x" * 201, {}, 400, "q"),
    "a stream id with a space": ("GET", "/sse/stream?stream_id=a%20b", {}, 400, "stream_id"),
    "a bad offset": ("GET", "/turns/{turn}/stream?offset=-1", {}, 400, "offset"),
    "a huge offset": ("GET", "/turns/{turn}/stream?offset=" + "9" * 99, {}, 400, "offset"),
    "an unknown turn": ("GET", "/turns/nothing/stream", {}, 404, None),
    "a path as turn": ("GET", "/turns/..%2f..%2fetc/stream", {}, 404, None),
    "an unknown conversation": ("GET", "/conversations/nothing", {}, 404, None),
    "NUL in a path": ("GET", "/conversations/a%00b", {}, 404, None),
    "invalid UTF-8 in a path": ("GET", "/conversations/%ff%fe", {}, 404, None),
    "invalid UTF-8 in a query": ("GET", "/conversations?cursor=%ff%fe", {}, 400, "cursor"),
    "no title": ("PATCH", ONE, {"json": {"title": "  "}}, 400, "title"),
    "a long title": ("PATCH", ONE, {"json": {"title": "x" * 201}}, 400, "title"),
    "a number as pin": ("PATCH", ONE, {"json": {"pinned": 1}}, 400, "pinned"),
    "an unknown branch": ("PATCH", ONE, {"json": {"head_turn_id": "x"}}, 404, "head_turn_id"),
    "a long reaction": ("PUT", FEEDBACK, {"json": {"reaction": "x" * 33}}, 400, "reaction"),
    "a long feedback": ("PUT", FEEDBACK, {"json": {"text": "x" * 10_001}}, 400, "text"),
    "feedback of no turn": ("PUT", ONE + "/turns/x/feedback", {"json": {"text": "x"}}, 404, None),
    "an unknown format": ("GET", ONE + "/export?format=pdf", {}, 400, "format"),
    "a cancel of nothing": ("POST", "/sse/cancel", {"json": {}}, 400, "turn_id"),
    "a cancel of two": ("POST", "/sse/cancel", {"json": {"turn_id": "a", "conversation_id": "b"}}, 400, "turn_id"),
    "a cancel of a number": ("POST", "/sse/cancel", {"json": {"turn_id": 5}}, 400, "turn_id"),
    "a large cancel": ("POST", "/sse/cancel", {"content": b"x" * 70_000}, 413, None),
    "a status of nothing": ("POST", "/sse/conv_status.get", {"json": {}}, 400, "body"),
    "no route": ("GET", "/nothing", {}, 404, None),
    "a path out of the routes": ("GET", "/../../etc/passwd", {}, 404, None),
    "a trailing slash": ("GET", "/conversations/", {}, 404, None),
    "the wrong method": ("GET", "/sse/chat", {}, 405, None),
    "no method of the route": ("PUT", ONE, {}, 405, None),
}  # fmt: skip


@pytest.mark.parametrize("case", REQUESTS)
async def test_a_bad_request(client, case):
    method, path, request, status, field = REQUESTS[case]
    turn = await client.sent()
    await client.ended(turn["task_id"])
    path = path.format(turn=turn["task_id"], conversation=turn["conversation_id"])
    refused(await client.ask(method, path, at=1, **request), status, field)
    before = await client.conversation(turn["conversation_id"])
    assert (before["title"], before["pinned"]) == ("one two three", False)
