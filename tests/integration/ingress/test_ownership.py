"""Ownership on every path: each place of the HTTP API that takes an id is tried with somebody else's.

The places are read from the OpenAPI document: a new route, or a new id in a route, fails here until it is tried too.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import httpx
import pytest
from tests.integration.ingress.asking import body, sent

from kdcube.gateway.identity.scopes import PUBLIC

pytestmark = pytest.mark.anyio

SECRET = "a-word-of-alice"
NO_IDS_OF_ANYBODY = {"bundle_id", "stream_id"}
"""A bundle is there for all, and the name of a stream is its client's."""
ADMIN = ("/admin/", "/monitoring/")


@dataclass(frozen=True)
class Ids:
    """What alice has; or ids of the same form that nobody has."""

    conversation: str
    turn: str
    client_turn: str
    key_of_chat: str
    key_of_retry: str
    key_of_completion: str
    key: str
    erasure: str
    cursor: str
    turn_cursor: str
    page: str
    key_page: str


@dataclass(frozen=True)
class Probe:
    """A request of bob with alice's ids. ``own`` is what bob has himself, where a path needs two ids.

    ``like_unknown``: the answer is the same as to ids that nobody has.
    """

    path: str
    status: int
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    like_unknown: bool = True


Make = Callable[[Ids, Ids], Probe]


def message(**members: Any) -> dict[str, Any]:
    return body("from bob", **members)


def completion(**members: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": "from bob"}], "kdcube": members}


PROBES: dict[tuple[str, str, str], list[Make]] = {
    ("POST", "/sse/chat", "conversation_id"): [
        # A new id opens a conversation, so the answers must differ.
        lambda his, own: Probe("/sse/chat", 404, body=message(conversation_id=his.conversation), like_unknown=False)
    ],
    ("POST", "/sse/chat", "turn_id"): [
        lambda his, own: Probe("/sse/chat", 202, body=message(turn_id=his.client_turn), like_unknown=False)
    ],
    ("POST", "/sse/chat", "Idempotency-Key"): [
        lambda his, own: Probe(
            "/sse/chat", 202, body=message(), headers={"Idempotency-Key": his.key_of_chat}, like_unknown=False
        )
    ],
    ("POST", "/sse/chat", "parent_turn_id"): [
        lambda his, own: Probe("/sse/chat", 404, body=message(parent_turn_id=his.turn)),
        lambda his, own: Probe(
            "/sse/chat", 404, body=message(parent_turn_id=his.turn, conversation_id=own.conversation)
        ),
    ],
    ("POST", "/sse/cancel", "turn_id"): [
        lambda his, own: Probe("/sse/cancel", 404, body={"turn_id": his.turn}),
        lambda his, own: Probe("/sse/cancel", 404, body={"turn_id": his.client_turn}),
    ],
    ("POST", "/sse/cancel", "conversation_id"): [
        lambda his, own: Probe("/sse/cancel", 404, body={"conversation_id": his.conversation})
    ],
    ("POST", "/sse/conv_status.get", "conversation_id"): [
        lambda his, own: Probe("/sse/conv_status.get", 404, body={"conversation_id": his.conversation})
    ],
    ("GET", "/sse/stream", "cursor"): [
        lambda his, own: Probe("/sse/stream", 400, query={"stream_id": "s", "cursor": his.cursor}),
        lambda his, own: Probe("/sse/stream", 400, query={"stream_id": "s", "cursor": his.turn_cursor}),
    ],
    ("GET", "/turns/{turn_id}/stream", "turn_id"): [
        lambda his, own: Probe(f"/turns/{his.turn}/stream", 404),
        lambda his, own: Probe(f"/turns/{his.client_turn}/stream", 404),
        lambda his, own: Probe(f"/turns/{his.turn}/stream", 404, query={"cursor": his.turn_cursor}),
    ],
    ("GET", "/turns/{turn_id}/stream", "cursor"): [
        lambda his, own: Probe(f"/turns/{own.turn}/stream", 400, query={"cursor": his.turn_cursor}),
        lambda his, own: Probe(f"/turns/{own.turn}/stream", 400, query={"cursor": his.cursor}),
    ],
    ("GET", "/conversations", "cursor"): [
        # Where a page begins, and no more: what follows is one's own.
        lambda his, own: Probe("/conversations", 200, query={"cursor": his.page}, like_unknown=False)
    ],
    ("GET", "/conversations/{conversation_id}", "conversation_id"): [
        lambda his, own: Probe(f"/conversations/{his.conversation}", 404)
    ],
    ("PATCH", "/conversations/{conversation_id}", "conversation_id"): [
        lambda his, own: Probe(f"/conversations/{his.conversation}", 404, body={"title": "bob's"}),
        lambda his, own: Probe(f"/conversations/{his.conversation}", 404, body={"pinned": True}),
        lambda his, own: Probe(f"/conversations/{his.conversation}", 404, body={}),
    ],
    ("PATCH", "/conversations/{conversation_id}", "head_turn_id"): [
        lambda his, own: Probe(f"/conversations/{own.conversation}", 404, body={"head_turn_id": his.turn}),
        lambda his, own: Probe(f"/conversations/{his.conversation}", 404, body={"head_turn_id": own.turn}),
    ],
    ("DELETE", "/conversations/{conversation_id}", "conversation_id"): [
        lambda his, own: Probe(f"/conversations/{his.conversation}", 404)
    ],
    ("POST", "/conversations/{conversation_id}/restore", "conversation_id"): [
        lambda his, own: Probe(f"/conversations/{his.conversation}/restore", 404)
    ],
    ("GET", "/conversations/{conversation_id}/export", "conversation_id"): [
        lambda his, own: Probe(f"/conversations/{his.conversation}/export", 404),
        lambda his, own: Probe(f"/conversations/{his.conversation}/export", 404, query={"format": "md"}),
    ],
    **{
        (method, f"/conversations/{{conversation_id}}/turns/{{turn_id}}/{act}", name): [make]
        for method, act, given in (("PUT", "feedback", {"reaction": "up"}), ("POST", "retry", None))
        for name, make in {
            "conversation_id": lambda his, own, act=act, given=given: Probe(
                f"/conversations/{his.conversation}/turns/{his.turn}/{act}", 404, body=given
            ),
            "turn_id": lambda his, own, act=act, given=given: Probe(
                f"/conversations/{own.conversation}/turns/{his.turn}/{act}", 404, body=given
            ),
        }.items()
    },
    ("POST", "/conversations/{conversation_id}/turns/{turn_id}/retry", "Idempotency-Key"): [
        lambda his, own: Probe(
            f"/conversations/{own.conversation}/turns/{own.turn}/retry",
            202,
            headers={"Idempotency-Key": his.key_of_retry},
            like_unknown=False,
        )
    ],
    ("POST", "/v1/chat/completions", "conversation_id"): [
        lambda his, own: Probe(
            "/v1/chat/completions", 404, body=completion(conversation_id=his.conversation), like_unknown=False
        )
    ],
    ("POST", "/v1/chat/completions", "Idempotency-Key"): [
        # Attached to alice's turn it would answer at once, with her words.
        lambda his, own: Probe(
            "/v1/chat/completions",
            404,
            body=completion(conversation_id=his.conversation),
            headers={"Idempotency-Key": his.key_of_completion},
            like_unknown=False,
        )
    ],
    ("GET", "/api-keys", "cursor"): [
        lambda his, own: Probe("/api-keys", 200, query={"cursor": his.key_page}, like_unknown=False)
    ],
    ("GET", "/me/erasures/{erasure_id}", "erasure_id"): [lambda his, own: Probe(f"/me/erasures/{his.erasure}", 404)],
    ("DELETE", "/api-keys/{key_id}", "key_id"): [lambda his, own: Probe(f"/api-keys/{his.key}", 404)],
}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    """Method, path, operation and its parameters, of all that is not for everybody."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters" and path not in PUBLIC:
                yield method.upper(), path, operation, [*item.get("parameters", []), *operation["parameters"]]


def members(document: dict[str, Any], schema: Any) -> Iterator[str]:
    """The names of all members that a schema has, at any depth."""
    if isinstance(schema, list):
        for part in schema:
            yield from members(document, part)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            yield from members(document, document["components"]["schemas"][schema["$ref"].split("/")[-1]])
        for name, part in schema.items():
            if name == "properties":
                yield from part
            yield from members(document, [*part.values()] if name == "properties" else part)


def is_id(name: str) -> bool:
    return name.endswith("_id") or name in {"cursor", "Idempotency-Key"}


def places(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Where an id of somebody's can be given. Routes for administrators are tried as a whole."""
    return {
        (method, path, name)
        for method, path, operation, parameters in operations(document)
        if not path.startswith(ADMIN)
        for name in {
            *(parameter["name"] for parameter in parameters),
            *members(document, operation.get("requestBody", {})),
        }
        if is_id(name) and name not in NO_IDS_OF_ANYBODY | {"user_session_id", "id_token"}
    }


@dataclass
class Scene:
    """An ingress with what alice and bob have."""

    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    client: Callable[..., httpx.AsyncClient]
    document: dict[str, Any]
    hers: Ids
    his: Ids


async def things_of(client: httpx.AsyncClient, process: Any, name: str) -> Ids:
    """Conversations with a turn each that has ended, and keys: several, so that pages have a next one; and the receipt
    of an erasure before all that.
    """
    erasure = (await client.delete("/me")).json()["erasure_id"]
    turns = [await sent(client, SECRET if name == "alice" else "hello", turn_id=f"turn-{name}-{n}") for n in range(4)]
    for _ in turns:
        await process.worker.run()
    keys = [(await client.post("/api-keys", json={"name": "a program"})).json() for _ in range(2)]
    page = (await client.get("/conversations", params={"limit": 1})).json()["next"]
    key_page = (await client.get("/api-keys", params={"limit": 1})).json()["next"]
    turn = turns[0]["task_id"]
    return Ids(
        turns[0]["conversation_id"],
        turn,
        *(f"turn-{name}-{n}" for n in range(4)),
        keys[0]["api_key"]["id"],
        erasure,
        await first_cursor(client, "/sse/stream?stream_id=s"),
        await first_cursor(client, f"/turns/{turn}/stream"),
        page,
        key_page,
    )


async def first_cursor(client: httpx.AsyncClient, path: str) -> str:
    async with client.stream("GET", path) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("id:"):
                return line[3:].strip()
    raise AssertionError(f"{path} gave no cursor")


@pytest.fixture
async def scene(process: Any) -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        opened: list[httpx.AsyncClient] = []

        def client(token: str | None = None, **headers: str) -> httpx.AsyncClient:
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            opened.append(httpx.AsyncClient(base_url=process.url, headers=headers, timeout=30))
            stack.push_async_callback(opened[-1].aclose)
            return opened[-1]

        alice, bob = client("alice-token"), client("bob-token")
        document = (await bob.get("/openapi.json")).json()
        hers, his = await things_of(alice, process, "alice"), await things_of(bob, process, "bob")
        yield Scene(alice, bob, client, document, hers, his)


async def test_every_place_that_takes_an_id_is_tried(scene: Scene) -> None:
    assert places(scene.document) == set(PROBES)


async def test_what_is_somebody_elses_is_not_found_and_not_told(scene: Scene) -> None:
    before = await everything(scene.alice)
    told: list[str] = []
    # First those that must change nothing: what is bob's own afterwards has ids like hers.
    for like_unknown, ((method, *_), makes) in product((True, False), PROBES.items()):
        for make in makes:
            if make(scene.hers, scene.his).like_unknown is not like_unknown:
                continue
            answers = []
            tried = (scene.hers, unknown(scene.hers)) if like_unknown else (scene.hers,)
            for ids in tried:
                probe = make(ids, scene.his)
                response = await scene.bob.request(
                    method, probe.path, params=probe.query, json=probe.body, headers=probe.headers
                )
                if ids is scene.hers:
                    if response.status_code != probe.status:
                        told.append(f"{method} {probe} gave {response.status_code}: {response.text}")
                    if SECRET in response.text or "alice" in response.text.replace(scene.hers.client_turn, ""):
                        told.append(f"{method} {probe} tells {response.text}")
                answers.append((response.status_code, without_request_id(response.text)))
            if any(answer != answers[0] for answer in answers):
                told.append(f"{method} {probe} tells that there is something: {answers}")
    assert not told, "\n".join(told)
    assert await everything(scene.alice) == before


def unknown(ids: Ids) -> Ids:
    """Of the same form, and nobody's. Those of cursors stay: they name what is in them."""
    nobodys = ("turn-nobody-0", "turn-nobody-1", "turn-nobody-2", "turn-nobody-3")
    return Ids("f" * 32, "e" * 32, *nobodys, "0" * 12, "d" * 32, ids.cursor, ids.turn_cursor, ids.page, ids.key_page)


def without_request_id(text: str) -> dict[str, Any]:
    try:
        return {name: value for name, value in json.loads(text).items() if name != "request_id"}
    except ValueError:
        return {"events": text}


async def everything(client: httpx.AsyncClient) -> list[Any]:
    """All that a user sees of what is stored."""
    listed = (await client.get("/conversations")).json()["items"]
    exports = [(await client.get(f"/conversations/{item['conversation_id']}/export")).json() for item in listed]
    return [listed, exports, (await client.get("/api-keys")).json()]


def asked(scene: Scene) -> Iterator[tuple[str, str]]:
    """Every route, with ids of bob's own."""
    ids = {"conversation_id": scene.his.conversation, "turn_id": scene.his.turn, "key_id": scene.his.key}
    ids["erasure_id"] = scene.his.erasure
    for method, path, *_ in operations(scene.document):
        yield method, path.format_map({**ids, "model": "echo"} | dict.fromkeys(names_in(path) - {*ids, "model"}, "1"))


def names_in(path: str) -> set[str]:
    return {part[1:-1] for part in path.split("/") if part.startswith("{")}


async def test_somebody_elses_session_opens_no_route(scene: Scene) -> None:
    session = (await scene.alice.get("/profile")).json()["session_id"]
    for method, path in asked(scene):
        for presented in ({"headers": {"User-Session-ID": session}}, {"params": {"user_session_id": session}}):
            response = await scene.bob.request(method, path, **presented)
            assert (response.status_code, error_of(response)) == (403, "foreign_session"), (method, path)
            stranger = await scene.client().request(method, path, **presented)
            # Whoever may come as a newcomer gets a session of his own, never the one that he names.
            assert stranger.status_code == 401 or "alice" not in stranger.text, (method, path, stranger.text)


async def test_a_bad_token_opens_no_route(scene: Scene) -> None:
    forged = {"Cookie": "kdcube_session=a1.1.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
    for method, path in asked(scene):
        response = await scene.client("nonsense").request(method, path)
        assert (response.status_code, error_of(response)) == (401, "invalid_token"), (method, path)
        assert response.headers["www-authenticate"].startswith("Bearer")
        elsewhere = await scene.client("nonsense", **forged).request(method, path)
        assert elsewhere.status_code == 401, (method, path)


async def test_routes_for_administrators_are_for_nobody_else(scene: Scene) -> None:
    stranger = scene.client()
    await stranger.get("/profile")
    for method, path in asked(scene):
        if path.startswith(ADMIN):
            for client, status in ((scene.bob, 403), (stranger, 401)):
                response = await client.request(method, path, json={})
                assert response.status_code == status, (method, path, response.text)
            assert (await scene.client().request(method, path)).status_code == 401


def error_of(response: httpx.Response) -> str:
    """In KDCube's shape, or in OpenAI's."""
    error = response.json()["error"]
    return error if isinstance(error, str) else error["code"]
