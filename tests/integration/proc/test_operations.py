"""Operations by HTTP, from a proc on real stores: who may, how much, how they end, what they may ask for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.proc.conftest import Deployment

from kdcube.gateway.identity.key_text import new_key
from kdcube.gateway.identity.proofs import ProofWatch
from kdcube.gateway.live import Source
from kdcube.postgres.api_keys import StoredKey, StoredKeys
from kdcube.postgres.audit import Actor, Audit
from kdcube.proc.main import Proc
from kdcube.protocol.turns import UserType

pytestmark = pytest.mark.anyio

TOKENS = {
    "alice-token": {"sub": "alice", "username": "alice", "roles": []},
    "bob-token": {"sub": "bob", "username": "bob", "roles": []},
    "paid-token": {"sub": "paula", "username": "paula", "roles": ["kdcube:role:paid"]},
}
CODE = """
import asyncio, os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from kdcube.sdk import Bundle, BundleError, OperationContext, Refused

bundle = Bundle("ops@1")
FOLDER = Path(FOLDER_HERE)

class Line(msgspec.Struct):
    count: int

class Order(msgspec.Struct):
    lines: list[Line]

@bundle.on_message
async def answer(turn):
    await turn.delta("said " + turn.text)

@bundle.operation("total")
async def total(ctx: OperationContext, data: Order) -> int:
    \"\"\"Adds up.\"\"\"
    return sum(line.count for line in data.lines)

@bundle.operation("whoami")
async def whoami(ctx):
    return {"id": ctx.user.id, "type": ctx.user.type, "config": dict(ctx.config), "request": ctx.request_id}

@bundle.operation("front", public=True)
async def front(ctx):
    return ctx.user.id

@bundle.operation("dear", required_user_type="paid")
async def dear(ctx):
    return "dear"

@bundle.operation("told")
async def told(ctx, data: str):
    raise BundleError(data, "So it is.")

@bundle.operation("crash")
async def crash(ctx):
    raise RuntimeError("s3cret detail")

@bundle.operation("exit")
async def exit(ctx):
    with (FOLDER / "exits").open("a") as file:
        file.write("x")
    os._exit(1)

@bundle.operation("big")
async def big(ctx):
    return "x" * 2_000_000

@bundle.operation("slow", timeout_s=0.05)
async def slow(ctx):
    await asyncio.Event().wait()

@bundle.operation("hold")
async def hold(ctx, data: str):
    (FOLDER / f"{data}.began").touch()
    try:
        while not (FOLDER / f"{data}.go").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        (FOLDER / f"{data}.cancelled").touch()
        raise
    return data

@bundle.operation("count")
async def count(ctx, data: int) -> AsyncIterator[Line]:
    for number in range(data):
        yield Line(number)

@bundle.operation("half")
async def half(ctx):
    yield 1
    raise BundleError("half", "Half of it.")

@bundle.operation("unbegun")
async def unbegun(ctx):
    raise BundleError("none", "Nothing of it.")
    yield 1

@bundle.operation("drip")
async def drip(ctx, data: str):
    try:
        yield data
        await asyncio.Event().wait()
    finally:
        (FOLDER / f"{data}.ended").touch()

@bundle.operation("secret")
async def secret(ctx, data: str):
    return ctx.secret(data)

@bundle.operation("flood")
async def flood(ctx):
    try:
        for number in range(10_000):
            (FOLDER / "flooded").write_text(str(number))
            yield "x" * 100_000
    finally:
        (FOLDER / "flood.ended").touch()

@bundle.operation("send")
async def send(ctx, data: dict):
    accepted = await ctx.start_turn(**data)
    return accepted

@bundle.operation("read")
async def read(ctx, data: str):
    return await ctx.conversation(data)

@bundle.operation("send_front", public=True)
async def send_front(ctx):
    return await ctx.start_turn("hello")
"""
PLACE = "/integrations/bundles/local/main/ops@1"


@dataclass
class Operations:
    proc: Proc
    folder: Path
    stack: AsyncExitStack

    async def client(self, token: str | None = "alice-token", address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.proc.app, client=(address, 5000))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        client = httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        return await self.stack.enter_async_context(client)

    def there(self, name: str) -> bool:
        return (self.folder / name).exists()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


Opened = Callable[..., Awaitable[Operations]]


@pytest.fixture
async def opened(deployment: Deployment, tmp_path: Path) -> AsyncGenerator[Opened]:
    """Opens a proc that serves the bundle above: ``await opened(entry={...}, **variables)``."""
    folder = tmp_path / "ops"
    folder.mkdir()
    (folder / "bundle.py").write_text(CODE.replace("FOLDER_HERE", repr(str(tmp_path))))
    (tmp_path / "tokens.json").write_text(json.dumps(TOKENS))
    async with AsyncExitStack() as stack:

        async def open_(entry: dict[str, Any] | None = None, **variables: str) -> Operations:
            registry = {"bundles": {"ops@1": {"path": str(folder), "config": {"n": 1}, **(entry or {})}}}
            given = {
                "AGENTIC_BUNDLES_JSON": json.dumps(registry),
                "IDP_DB_PATH": str(tmp_path / "tokens.json"),
                "KDCUBE_SESSION_SECRET": "s" * 40,
                **variables,
            }
            proc = await stack.enter_async_context(deployment.proc(**given))
            await proc.probes.epoch_watch.wait_for()
            return Operations(proc, tmp_path, stack)

        yield open_


def call(client: httpx.AsyncClient, operation: str, data: Any = None, **options: Any) -> Awaitable[httpx.Response]:
    body = {} if data is None else {"data": data}
    return client.post(f"{PLACE}/operations/{operation}", json=body, **options)


def refused(response: httpx.Response, status: int, error: str) -> dict[str, Any]:
    told = response.json()
    assert (response.status_code, told["error"]) == (status, error), told
    assert told["request_id"] == response.headers["x-request-id"]
    return told


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    frames = [frame.split("\n") for frame in response.text.split("\n\n") if frame and not frame.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in frames]


def gateway(**sections: Any) -> dict[str, str]:
    return {"GATEWAY_CONFIG_JSON": json.dumps({"tenant": "local", "project": "main", **sections})}


async def test_calls(opened: Opened) -> None:
    operations = await opened()
    alice = await operations.client()
    response = await call(alice, "total", {"lines": [{"count": 1}, {"count": 2}]})
    assert (response.status_code, response.json()) == (200, {"total": 3})
    assert response.headers["content-type"] == "application/json" and response.headers["cache-control"] == "no-store"
    response = await alice.post(f"/chatbot/api{PLACE}/operations/whoami", headers={"X-Request-ID": "request-1"})
    assert response.json() == {
        "whoami": {"id": "alice", "type": "registered", "config": {"n": 1}, "request": "request-1"}
    }
    for data, field in (({"lines": [{"count": "1"}]}, "data.lines[0].count"), ({}, "data.lines"), (None, "data")):
        assert refused(await call(alice, "total", data), 400, "invalid_input")["field"] == field
    refused(await alice.post(f"{PLACE}/operations/total", content=b'{"data": '), 400, "malformed_json")
    refused(await alice.post(f"{PLACE}/operations/total", content=b" " * 2_000_000), 413, "too_large")
    assert (await alice.get(f"{PLACE}/operations/total")).status_code == 405
    for path in (
        "/integrations/bundles/other/main/ops@1/operations/total",
        "/integrations/bundles/local/other/ops@1/operations/total",
        "/integrations/bundles/local/main/other/operations/total",
        f"{PLACE}/operations/other",
    ):
        told = refused(await alice.post(path, json={}), 404, "not_found")
        assert told["message"] == "There is no such operation."
        nobody = await operations.client(None)
        refused(await nobody.post(path, json={}), 401, "unauthorized")


async def test_how_they_fail(opened: Opened) -> None:
    operations = await opened()
    alice = await operations.client()
    assert refused(await call(alice, "told", "no_credit"), 422, "no_credit")["message"] == "So it is."
    refused(await call(alice, "told", "no such\ncode"), 422, "bundle_error")
    response = await call(alice, "crash")
    refused(response, 500, "operation_failed")
    assert "s3cret" not in response.text
    refused(await call(alice, "big"), 502, "result_too_large")
    refused(await call(alice, "slow"), 504, "operation_timeout")
    refused(await call(alice, "exit"), 502, "operation_interrupted")
    assert (operations.folder / "exits").read_text() == "x", "it was repeated"
    await operations.until(lambda: operations.proc.pool.room().get("ops@1"))
    assert (await call(alice, "total", {"lines": []})).json() == {"total": 0}


async def test_who_may(opened: Opened) -> None:
    operations = await opened()
    nobody, alice = await operations.client(None), await operations.client()
    assert (await call(nobody, "front")).json() == {"front": ""}
    assert (await call(alice, "front")).json() == {"front": "alice"}
    refused(await call(await operations.client("bad-token"), "front"), 401, "invalid_token")
    refused(await call(nobody, "whoami"), 401, "unauthorized")
    refused(await call(alice, "dear"), 403, "operation_not_allowed")
    assert (await call(await operations.client("paid-token"), "dear")).json() == {"dear": "dear"}
    refused(await call(nobody, "send_front"), 401, "unauthorized")
    cookies = {"__Secure-LATC": "alice-token"}
    elsewhere = {
        "Sec-Fetch-Site": "cross-site",
        "Origin": "https://evil.example",
        "Cookie": "__Secure-LATC=alice-token",
    }
    for operation in ("whoami", "front"):
        refused(await call(nobody, operation, headers=elsewhere), 403, "cross_site")
    nobody.cookies.update(cookies)
    assert (await call(nobody, "front")).json() == {"front": "alice"}


async def test_the_registry_goes_before_the_bundle(opened: Opened) -> None:
    operations = await opened(entry={"required_user_type": "paid"})
    refused(await call(await operations.client(None), "front"), 401, "unauthorized")
    refused(await call(await operations.client(), "front"), 403, "bundle_not_allowed")
    assert (await call(await operations.client("paid-token"), "front")).status_code == 200


async def test_public_ones_have_limits_of_their_own(opened: Opened) -> None:
    operations = await opened(**gateway(limits={"max_public_operations_per_minute": 3}))
    nobody = await operations.client(None, "9.9.9.9")
    codes = [(await call(nobody, "front")).status_code for _ in range(4)]
    assert codes == [200] * 3 + [429]
    response = await call(nobody, "front")
    assert int(response.headers["retry-after"]) >= 1
    refused(response, 429, "rate_limit_address")
    assert (await call(await operations.client(None, "9.9.9.8"), "front")).status_code == 200
    assert (await call(await operations.client("alice-token", "9.9.9.9"), "front")).status_code == 200


async def test_guarded_paths_count(opened: Opened) -> None:
    limit = {"burst": 2, "hourly": -1}
    operations = await opened(**gateway(guarded_rest_patterns=["^/integrations/.*"], rate_limits={"registered": limit}))
    alice = await operations.client()
    response = await call(alice, "total", {"lines": []})
    assert response.headers["ratelimit"].startswith('"burst";r=1;')
    assert (await alice.post(f"/chatbot/api{PLACE}/operations/whoami", json={})).status_code == 200
    response = await call(alice, "whoami")
    refused(response, 429, "rate_limit_burst")
    assert int(response.headers["retry-after"]) > 0
    assert (await call(await operations.client("bob-token"), "whoami")).status_code == 200


async def test_pages_of_allowed_origins_may_call(opened: Opened) -> None:
    cors = {"allow_origins": ["https://ours.example"], "allow_credentials": True}
    operations = await opened(CORS_CONFIG=json.dumps(cors))
    alice = await operations.client()
    asking = {"Origin": "https://ours.example", "Access-Control-Request-Method": "POST"}
    response = await alice.options(f"{PLACE}/operations/total", headers=asking)
    assert response.headers["access-control-allow-origin"] == "https://ours.example"
    response = await call(alice, "whoami", headers={"Origin": "https://ours.example"})
    assert response.headers["access-control-allow-credentials"] == "true"


async def test_so_many_at_once_by_a_limit_that_may_change(opened: Opened) -> None:
    operations = await opened(**gateway(limits={"max_integrations_ops_concurrency": 1}))
    alice = await operations.client()
    first = asyncio.create_task(call(alice, "hold", "one"))
    await operations.until(lambda: operations.there("one.began"))
    second = asyncio.create_task(call(alice, "hold", "two"))
    live = operations.proc.live
    await operations.until(lambda: operations.proc.operations.waiting)
    refused(await call(alice, "whoami"), 503, "too_many_operations")
    assert not operations.there("two.began")
    limits = live.current.limits
    wider = limits.proc.model_copy(update={"max_integrations_ops_concurrency": 2})
    live.apply(live.current.model_copy(update={"limits": limits.model_copy(update={"proc": wider})}), Source(1))
    await operations.until(lambda: operations.there("two.began"))
    for name, task in (("one", first), ("two", second)):
        (operations.folder / f"{name}.go").touch()
        assert (await task).json() == {"hold": name}


async def test_so_many_of_a_bundle_at_once(opened: Opened) -> None:
    operations = await opened(entry={"operation_concurrency": 1})
    alice = await operations.client()
    each = [asyncio.create_task(call(alice, "hold", "one")) for _ in range(2)]
    await operations.until(lambda: operations.there("one.began") and operations.proc.operations.waiting)
    refused(await call(alice, "whoami"), 503, "too_many_operations")
    (operations.folder / "one.go").touch()
    assert [(await one).status_code for one in each] == [200, 200]


async def test_a_client_that_leaves_takes_its_operation_along(opened: Opened) -> None:
    operations = await opened()
    await _leaving(operations, {"data": "left"})
    await operations.until(lambda: operations.there("left.cancelled"))
    await operations.until(lambda: not operations.proc.operations.running)
    assert (await call(await operations.client(), "whoami")).status_code == 200


async def _leaving(operations: Operations, body: dict[str, Any]) -> None:
    """Calls ``hold`` and leaves when it has begun."""
    sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await operations.until(lambda: operations.there("left.began"))
        return {"type": "http.disconnect"}

    said: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    path = f"{PLACE}/operations/hold"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"authorization", b"Bearer alice-token")], "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    await operations.proc.app(scope, receive, send)
    assert not said


async def test_streams(opened: Opened) -> None:
    operations = await opened()
    alice = await operations.client()
    response = await call(alice, "count", 3)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events(response) == [*(("item", {"count": number}) for number in range(3)), ("end", {})]
    assert events(await call(alice, "count", 0)) == [("end", {})]
    response = await call(alice, "half")
    (item, error) = events(response)
    assert item == ("item", 1) and error[0] == "error"
    assert error[1] == {"error": "half", "message": "Half of it.", "request_id": response.headers["x-request-id"]}
    refused(await call(alice, "unbegun"), 422, "none")
    assert refused(await call(alice, "count", "x"), 400, "invalid_input")["field"] == "data"


async def test_a_slow_reader_slows_the_operation_and_one_that_leaves_ends_it(opened: Opened) -> None:
    operations = await opened()
    reads, taken = asyncio.Event(), 0
    sent = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await reads.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal taken
        if message["type"] == "http.response.body":
            taken += 1
            await reads.wait()

    path = f"{PLACE}/operations/flood"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"authorization", b"Bearer alice-token")], "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    reading = asyncio.create_task(operations.proc.app(scope, receive, send))
    await operations.until(lambda: taken)
    alice = await operations.client()
    for _ in range(20):
        assert (await call(alice, "whoami")).status_code == 200
    assert taken == 1 and int((operations.folder / "flooded").read_text()) < 5
    reads.set()
    await reading
    await operations.until(lambda: operations.there("flood.ended"))


async def test_a_drain_lets_them_finish_and_takes_no_more(opened: Opened) -> None:
    operations = await opened(PROC_CONTAINER_STOP_TIMEOUT_SEC="60")
    alice = await operations.client()
    held = asyncio.create_task(call(alice, "hold", "one"))
    await operations.until(lambda: operations.there("one.began"))
    draining = asyncio.create_task(operations.proc.drain())
    await operations.until(lambda: operations.proc.operations.draining)
    response = await call(alice, "whoami")
    refused(response, 503, "draining")
    assert response.headers["retry-after"] == "1"
    (operations.folder / "one.go").touch()
    assert (await held).json() == {"hold": "one"}
    await draining


async def test_a_drain_stops_what_does_not_finish(opened: Opened) -> None:
    operations = await opened(PROC_CONTAINER_STOP_TIMEOUT_SEC="1")
    held = asyncio.create_task(call(await operations.client(), "hold", "one"))
    await operations.until(lambda: operations.there("one.began"))
    await operations.proc.drain()
    refused(await held, 502, "operation_interrupted")
    assert operations.there("one.cancelled")


async def test_turns_are_started_and_read_in_the_callers_name(opened: Opened) -> None:
    operations = await opened()
    alice, bob = await operations.client(), await operations.client("bob-token")
    message = {"text": "hello", "idempotency_key": "k1", "payload": {"a": 1}}
    accepted = (await call(alice, "send", message)).json()["send"]
    assert not accepted["duplicate"]
    again = (await call(alice, "send", message)).json()["send"]
    assert again["duplicate"] and again["turn_id"] == accepted["turn_id"]
    place = accepted["conversation_id"]
    while True:
        found = (await call(alice, "read", place)).json()["read"]
        if found["turns"][0]["state"] == "completed":
            break
        await asyncio.sleep(0.05)
    turn = found["turns"][0]
    assert (turn["text"], turn["answer"], turn["bundle_id"]) == ("hello", "said hello", "ops@1")
    assert found["complete"] and turn["task_id"] == accepted["task_id"]
    assert (await call(bob, "read", place)).json() == {"read": None}
    assert (await call(alice, "read", "../x")).json() == {"read": None}
    refused(await call(bob, "send", {"text": "x", "conversation_id": place}), 404, "conversation_not_found")
    told = refused(await call(alice, "send", {"text": ""}), 400, "invalid_input")
    assert told["field"] == "text"
    refused(await call(alice, "send", {"text": "x", "policy": "later"}), 400, "invalid_input")


async def test_messages_of_operations_count_as_the_callers(opened: Opened) -> None:
    operations = await opened(**gateway(rate_limits={"registered": {"burst": 2, "hourly": -1}}))
    alice = await operations.client()
    for _ in range(2):
        assert (await call(alice, "send", {"text": "x"})).status_code == 200
    response = await call(alice, "send", {"text": "x"})
    refused(response, 429, "rate_limit_burst")
    assert int(response.headers["retry-after"]) > 0 and response.headers["ratelimit"].startswith('"burst";r=0;')


async def test_the_document(opened: Opened, tmp_path: Path) -> None:
    import schemathesis

    operations = await opened()
    alice, nobody = await operations.client(), await operations.client(None)
    document = (await alice.get(f"{PLACE}/openapi.json")).json()
    schemathesis.openapi.from_dict(document).validate()
    offered = {path.rpartition("/")[2] for path in document["paths"]}
    assert {"total", "front", "count"} <= offered and "dear" not in offered
    total = document["paths"][f"{PLACE}/operations/total"]["post"]
    body = total["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["data"] == {"$ref": "#/components/schemas/Order"} and body["required"] == ["data"]
    assert document["components"]["schemas"]["Order"]["required"] == ["lines"]
    assert total["summary"] == "Adds up."
    public = (await nobody.get(f"{PLACE}/openapi.json")).json()
    assert {path.rpartition("/")[2] for path in public["paths"]} == {"front", "send_front"}
    refused(await alice.get("/integrations/bundles/local/main/other/openapi.json"), 404, "not_found")
    refused(await nobody.get("/integrations/bundles/local/main/other/openapi.json"), 401, "unauthorized")


async def test_a_bundle_that_is_being_prepared_is_not_unknown(opened: Opened) -> None:
    operations = await opened()
    proc = operations.proc
    proc.bundles.apply(replace(proc.bundles.current, unready={"new@1": None, "bad@1": "line 3: s3cret"}))
    alice, nobody = await operations.client(), await operations.client(None)
    for bundle_id, word in (("new@1", "bundle_preparing"), ("bad@1", "bundle_unavailable")):
        place = f"/integrations/bundles/local/main/{bundle_id}"
        for response in (
            await alice.post(f"{place}/operations/total", json={}),
            await alice.get(f"{place}/openapi.json"),
        ):
            refused(response, 503, word)
            assert response.headers["retry-after"] == "2" and "s3cret" not in response.text
        refused(await nobody.post(f"{place}/operations/total", json={}), 401, "unauthorized")
        refused(await nobody.get(f"{place}/openapi.json"), 401, "unauthorized")
    elsewhere = "/integrations/bundles/other/main/new@1/operations/total"
    refused(await alice.post(elsewhere, json={}), 404, "not_found")


async def test_a_secret_that_cannot_be_read_is_named_and_nothing_else(opened: Opened) -> None:
    operations = await opened(entry={"secrets": {"KEY": "file:sales-signing-key"}})
    alice = await operations.client()
    response = await call(alice, "secret", "KEY")
    told = refused(response, 503, "secret_unavailable")
    assert told["message"] == "The operation cannot be done now: its secret KEY cannot be read."
    assert response.headers["retry-after"] == "10" and "signing" not in response.text
    refused(await call(alice, "secret", "UNGRANTED"), 500, "operation_failed")


async def test_a_stream_ends_with_the_key_that_opened_it(opened: Opened) -> None:
    operations = await opened()
    running, folder = operations.proc.operations.running, operations.folder
    assert any(task.get_name() == "streams-proofs" for task in asyncio.all_tasks())
    stored = StoredKeys(operations.proc.database, Audit(operations.proc.database, "local", "main"), "local", "main")
    now_ms = int(time.time() * 1000)
    texts, keys = zip(new_key(), new_key(), strict=True)
    for key in keys:
        await stored.add(
            StoredKey(
                key_id=key.key_id,
                secret_hash=key.secret_hash,
                name="a program",
                user_id="alice",
                username=None,
                email=None,
                user_type=UserType.REGISTERED,
                roles=(),
                scopes=("chat",),
                created_by="alice",
                created_ms=now_ms,
                expires_ms=now_ms + 60_000,
            ),
            Actor("alice"),
        )
    watch = ProofWatch(running, None, stored)
    clients = [await operations.client(text) for text in texts]
    streams = [
        asyncio.create_task(call(client, "drip", name)) for client, name in zip(clients, ("one", "two"), strict=True)
    ]
    await operations.until(lambda: len(running.api_keys) == 2)
    await watch.look()
    assert len(running) == 2
    await stored.revoke(keys[0].key_id, Actor("alice"), now_ms)
    await watch.look()
    await operations.until(lambda: (folder / "one.ended").exists())
    assert events(await streams[0])[-1][1]["error"] == "unauthorized"
    assert running.api_keys == {keys[1].key_id} and not streams[1].done()
    running.cut_keys({keys[1].key_id})
    await streams[1]
