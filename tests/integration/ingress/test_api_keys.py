"""API keys: who makes them, what they open, and how they end."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.integration.ingress.asking import body, refused, sent

from kdcube.gateway.identity import key_text
from kdcube.gateway.identity.api_keys import KEPT_S, ApiKeys
from kdcube.gateway.identity.key_text import new_key, parse_key
from kdcube.gateway.identity.proofs import ProofWatch
from kdcube.gateway.identity.scopes import PUBLIC, Scope, scopes_for
from kdcube.ingress.routes.api_keys import DAYS_MAX
from kdcube.postgres.api_keys import MAX_LIVE, StoredKeys
from kdcube.postgres.audit import Audit
from kdcube.postgres.database import open_database
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.revocations import Revocations
from kdcube.redis.subscriber import open_subscriber

pytestmark = pytest.mark.anyio

SCOPE = ("local", "main")


async def made(client: Any, path: str = "/api-keys", **members: Any) -> dict[str, Any]:
    response = await client.post(path, json={"name": "a program", **members})
    assert response.status_code == 201, response.text
    return response.json()


async def listed(client: Any, path: str = "/api-keys", **query: Any) -> list[dict[str, Any]]:
    return (await client.get(path, params=query)).json()["items"]


async def test_a_key_acts_as_its_owner(bench: Any) -> None:
    alice = await bench.client("alice-token")
    new = await made(alice, scopes=["chat", "read"])
    program = await bench.client(new["key"])
    told = (await program.get("/profile")).json()
    assert (told["user_id"], told["user_type"], told["roles"]) == ("alice", "registered", ["kdcube:role:chat"])
    turn = await sent(program)
    assert (await alice.get(f"/conversations/{turn['conversation_id']}")).status_code == 200
    assert (await program.get(f"/conversations/{turn['conversation_id']}")).status_code == 200
    completion = await bench.client(new["key"])
    assert (await completion.get("/v1/models")).status_code == 200


async def test_a_key_is_shown_once_and_stored_as_a_hash(bench: Any, database_url: str) -> None:
    alice = await bench.client("alice-token")
    new = await made(alice)
    (item,) = await listed(alice)
    assert item == new["api_key"]
    assert (item["user_id"], item["created_by"], item["revoked_at"]) == ("alice", "alice", None)
    lifetime = datetime.fromisoformat(item["expires_at"]) - datetime.fromisoformat(item["created_at"])
    assert lifetime.days == 90
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("select k::text as row from api_keys k union all select a::text from audit_log a")
    finally:
        await connection.close()
    assert rows and not any(new["key"].split("_")[2][:43] in row["row"] for row in rows)


async def test_a_key_opens_what_its_scopes_name(bench: Any) -> None:
    alice, root = await bench.client("alice-token"), await bench.client("root-token")
    turn = await sent(alice)
    one = f"/conversations/{turn['conversation_id']}"
    reads, chats, administers = [
        await bench.client((await made(client, scopes=[scope]))["key"])
        for client, scope in ((alice, "read"), (alice, "chat"), (root, "admin"))
    ]
    assert (await reads.get(one)).status_code == 200
    refused(await reads.post("/sse/chat", json=body()), 403, "insufficient_scope")
    refused(await reads.delete(one), 403, "insufficient_scope")
    assert (await chats.post("/sse/chat", json=body())).status_code == 202
    refused(await chats.get(one), 403, "insufficient_scope")
    refused(await chats.get("/admin/api-keys"), 403, "insufficient_scope")
    assert (await administers.get("/admin/api-keys")).status_code == 200
    refused(await administers.post("/sse/chat", json=body()), 403, "insufficient_scope")


async def test_a_key_makes_no_keys(bench: Any) -> None:
    root = await bench.client("root-token")
    new = await made(root, scopes=["admin", "chat", "read"])
    program = await bench.client(new["key"])
    for method, path in (("POST", "/api-keys"), ("POST", "/admin/api-keys"), ("GET", "/api-keys")):
        told = refused(await program.request(method, path, json={"name": "x"}), 403, "insufficient_scope")
        assert "no API key" in told["message"]
    refused(await program.delete(f"/api-keys/{new['api_key']['id']}"), 403, "insufficient_scope")


async def test_a_service_has_an_identity_of_its_own(bench: Any) -> None:
    root = await bench.client("root-token")
    new = await made(root, "/admin/api-keys", service="nightly", user_type="paid", roles=["kdcube:role:paid"])
    program = await bench.client(new["key"])
    told = (await program.get("/profile")).json()
    assert (told["user_id"], told["user_type"], told["username"]) == ("service:nightly", "paid", "nightly")
    turn = await sent(program)
    refused(await root.get(f"/conversations/{turn['conversation_id']}"), 404)
    assert [item["user_id"] for item in await listed(root, "/admin/api-keys")] == ["service:nightly"]
    assert await listed(root, "/admin/api-keys", user_id="alice") == []
    assert await listed(root) == []


async def test_nobody_gives_what_he_has_not(bench: Any) -> None:
    alice, root, stranger = [await bench.client(token) for token in ("alice-token", "root-token", None)]
    refused(await alice.post("/api-keys", json={"name": "x", "scopes": ["admin"]}), 403, "scope_not_allowed")
    refused(await alice.post("/admin/api-keys", json={"name": "x", "service": "s"}), 403, "not_administrator")
    refused(await alice.get("/admin/api-keys"), 403, "not_administrator")
    await stranger.get("/profile")
    refused(await stranger.post("/api-keys", json={"name": "x"}), 403, "sign_in")
    for wrong, error in (
        ({"roles": ["finance"]}, "role_not_allowed"),
        ({"roles": ["kdcube:role:admin"], "user_type": "paid"}, "role_not_allowed"),
        ({"scopes": ["admin"]}, "scope_not_allowed"),
    ):
        refused(await root.post("/admin/api-keys", json={"name": "x", "service": "s", **wrong}), 403, error)
    privileged = {"user_type": "privileged", "roles": ["kdcube:role:super-admin"], "scopes": ["admin"]}
    assert (await made(root, "/admin/api-keys", service="s", **privileged))["api_key"]["user_type"] == "privileged"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"scopes": []},
        {"scopes": ["root"]},
        {"expires_in_days": 0},
        {"expires_in_days": DAYS_MAX + 1},
        {"user_id": "root"},
        {"roles": ["kdcube:role:admin"]},
    ],
    ids=str,
)
async def test_bad_input_is_named(bench: Any, wrong: dict[str, Any]) -> None:
    alice = await bench.client("alice-token")
    told = refused(await alice.post("/api-keys", json={"name": "x", **wrong}), 400, "invalid_input")
    assert told["field"]
    assert await listed(alice) == []


async def test_a_service_name_is_a_name(bench: Any) -> None:
    root = await bench.client("root-token")
    for service in ("", "a b", "a\n", "../x", "x" * 65, "é"):
        refused(await root.post("/admin/api-keys", json={"name": "x", "service": service}), 400)


async def test_a_revoked_key_opens_nothing(bench: Any) -> None:
    alice, bob, root = [await bench.client(token) for token in ("alice-token", "bob-token", "root-token")]
    keys = [await made(alice), await made(alice)]
    programs = [await bench.client(key["key"]) for key in keys]
    ids = [key["api_key"]["id"] for key in keys]
    for program in programs:
        assert (await program.get("/conversations")).status_code == 200
    refused(await bob.delete(f"/api-keys/{ids[0]}"), 404, "api_key_not_found")
    refused(await bob.delete("/api-keys/nonsense"), 404, "api_key_not_found")
    assert (await alice.delete(f"/api-keys/{ids[0]}")).json() == {"status": "revoked", "id": ids[0]}
    assert (await root.delete(f"/admin/api-keys/{ids[1]}")).status_code == 200
    assert (await alice.delete(f"/api-keys/{ids[0]}")).status_code == 200  # twice is once
    for program in programs:
        refused(await program.get("/conversations"), 401, "invalid_token")
    assert all(item["revoked_at"] for item in await listed(alice))


async def test_what_is_done_with_keys_is_recorded(bench: Any, database_url: str) -> None:
    alice, root = await bench.client("alice-token"), await bench.client("root-token")
    key = (await made(alice))["api_key"]["id"]
    await root.delete(f"/admin/api-keys/{key}")
    await root.delete(f"/admin/api-keys/{key}")
    async with open_database(database_url) as database:
        entries = (await Audit(database, *SCOPE).list()).items
    assert [(entry.actor, entry.act, entry.subject) for entry in entries] == [
        ("root", "api_key.revoked", key),
        ("alice", "api_key.created", key),
    ]
    assert entries[1].details["scopes"] == ["chat", "read"]


async def test_keys_that_are_none(bench: Any) -> None:
    alice = await bench.client("alice-token")
    good, made_up = (await made(alice))["key"], new_key()[0]
    forged = good[:17] + made_up[17:-6]
    for token in (made_up, good[:-1], "kdk_", "kdk_x_y", forged, good.replace("kdk", "KDK")):
        refused(await (await bench.client(token)).get("/conversations"), 401, "invalid_token")
    others_secret = next(
        text for text in _with_checksum(good.split("_")[1], made_up.split("_")[2][:43]) if parse_key(text)
    )
    refused(await (await bench.client(others_secret)).get("/conversations"), 401, "invalid_token")


def _with_checksum(key_id: str, secret: str) -> list[str]:
    body_ = f"kdk_{key_id}_{secret}"
    return [body_ + key_text._checksum(body_)]


async def test_a_key_belongs_into_one_header(bench: Any) -> None:
    alice = await bench.client("alice-token")
    key = (await made(alice))["key"]
    stranger = await bench.client()
    query = {"stream_id": "s", "bearer_token": key}
    refused(await stranger.get("/sse/stream", params=query), 401, "invalid_token")
    refused(await stranger.get("/conversations", headers={"X-ID-Token": key}), 401, "invalid_token")
    both = {"Authorization": f"Bearer {key}", "X-ID-Token": "alice-token"}
    refused(await stranger.get("/conversations", headers=both), 401, "invalid_token")
    stranger.cookies.set("__Secure-LATC", key)
    refused(await stranger.get("/conversations"), 401, "invalid_token")


async def test_a_user_has_so_many_keys_and_no_more(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    keys = [await made(alice) for _ in range(MAX_LIVE)]
    refused(await alice.post("/api-keys", json={"name": "x"}), 409, "too_many_keys")
    await made(bob)
    await alice.delete(f"/api-keys/{keys[0]['api_key']['id']}")
    await made(alice)
    first = (await alice.get("/api-keys", params={"limit": 20})).json()
    second = (await alice.get("/api-keys", params={"limit": 20, "cursor": first["next"]})).json()
    ids = [item["id"] for item in first["items"] + second["items"]]
    assert len(set(ids)) == MAX_LIVE + 1 and second["next"] is None
    refused(await alice.get("/api-keys", params={"cursor": "nonsense"}), 400)
    refused(await alice.get("/api-keys", params={"limit": 201}), 400)


async def test_every_route_says_which_keys_it_takes(bench: Any) -> None:
    """And a route without an entry takes none."""
    document = (await (await bench.client()).get("/openapi.json")).json()
    routes = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    routes = {(method, path) for method, path in routes if method != "PARAMETERS" and path not in PUBLIC}
    never = {route for route in routes if not scopes_for(*route)}
    assert never == {
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("DELETE", "/api-keys/{key_id}"),
        ("POST", "/admin/api-keys"),
        ("DELETE", "/me"),
        ("DELETE", "/admin/users"),
        ("DELETE", "/admin/users/{user_id}"),
        ("GET", "/me/erasures/{erasure_id}"),
    }, "give each new route its scopes in gateway/identity/scopes.py, or name it here"
    assert scopes_for("GET", "/new") == scopes_for("PATCH", "/profile") == frozenset()
    for method, path in routes:
        assert (Scope.ADMIN in scopes_for(method, path)) <= (path.startswith(("/admin/", "/monitoring/", "/profile")))


class Clock:
    def __init__(self) -> None:
        self.passed_s = 0.0

    def wall(self) -> float:
        return time.time() + self.passed_s

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s


async def test_replicas_hear_of_a_revocation_and_find_out_without_hearing(
    bench: Any, valkey_url: str, database_url: str
) -> None:
    alice = await bench.client("alice-token")
    new = await made(alice)
    key, key_id = new["key"], new["api_key"]["id"]
    async with (
        open_connection(valkey_url, name="replica") as connection,
        open_subscriber(valkey_url, name="replica-channels") as subscriber,
        open_database(database_url) as database,
    ):
        stored = StoredKeys(database, Audit(database, *SCOPE), *SCOPE)
        revocations, clock = Revocations(connection, subscriber, Keys(*SCOPE)), Clock()
        hears = ApiKeys(stored, revocations)
        deaf = ApiKeys(stored, revocations, clock=clock.wall, monotonic=clock.monotonic)
        heard: list[str | None] = []
        told = asyncio.Event()

        def hear(revoked: str | None) -> None:
            heard.append(revoked)
            told.set()

        async with hears.running():
            with revocations.heard_by(hear):
                await told.wait()
                told.clear()
                assert await hears.authenticate(key) and await deaf.authenticate(key)
                await alice.delete(f"/api-keys/{key_id}")
                await told.wait()
        assert heard == [None, key_id]
        assert await hears.authenticate(key) is None
        assert await deaf.authenticate(key) is not None
        clock.passed_s += KEPT_S
        assert await deaf.authenticate(key) is None


async def test_a_key_expires_and_its_use_is_noted(bench: Any, valkey_url: str, database_url: str) -> None:
    alice = await bench.client("alice-token")
    key = (await made(alice, expires_in_days=1))["key"]
    async with (
        open_connection(valkey_url, name="replica") as connection,
        open_subscriber(valkey_url, name="replica-channels") as subscriber,
        open_database(database_url) as database,
    ):
        stored, clock = StoredKeys(database, Audit(database, *SCOPE), *SCOPE), Clock()
        revocations = Revocations(connection, subscriber, Keys(*SCOPE))
        keys = ApiKeys(stored, revocations, clock=clock.wall, monotonic=clock.monotonic)
        assert await keys.authenticate(key)
        assert (await listed(alice))[0]["last_used_at"] is None  # not on the way of a request
        await keys.note_used()
        noted = (await listed(alice))[0]["last_used_at"]
        assert noted is not None
        clock.passed_s -= 60
        assert await keys.authenticate(key)
        await keys.note_used()
        assert (await listed(alice))[0]["last_used_at"] == noted
        clock.passed_s = 86_400
        assert await keys.authenticate(key) is None


async def test_no_provider_can_name_a_service(bench_with: Any, tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"one": {"sub": "service:nightly"}, "other": {"sub": "services"}}))
    bench = await bench_with(IDP_DB_PATH=str(users))
    refused(await (await bench.client("one")).get("/profile"), 401, "invalid_token")
    assert (await (await bench.client("other")).get("/profile")).json()["user_id"] == "services"


async def test_a_stream_ends_with_its_key(bench: Any, database_url: str) -> None:
    alice = await bench.client("alice-token")
    keys = [await made(alice, scopes=["read"]) for _ in range(2)]
    streams = bench.ingress._streams
    async with open_database(database_url, name="test") as database:
        watch = ProofWatch(streams, None, StoredKeys(database, Audit(database, *SCOPE), *SCOPE))
        readers = [asyncio.create_task(read(await bench.client(new["key"]))) for new in keys]
        while streams.count < 2:
            await asyncio.sleep(0)
        await watch.look()
        assert streams.api_keys == {new["api_key"]["id"] for new in keys}
        for new, reader in zip(keys, readers, strict=True):
            assert not reader.done()
            await alice.delete(f"/api-keys/{new['api_key']['id']}")
            await watch.look()
            await reader
    assert streams.count == 0


async def read(client: Any) -> None:
    """Until it is cut, which this transport takes for an error."""
    with suppress(AssertionError):
        await client.get("/sse/stream")


async def test_a_key_keeps_the_roles_of_its_making_until_all_of_a_user_are_revoked(
    bench_with: Any, tmp_path: Path
) -> None:
    """What the provider takes from its owner it keeps: see decision 0018. One request ends them all."""
    paid = {"sub": "carla", "roles": ["kdcube:role:paid"]}
    users = tmp_path / "users.json"
    users.write_text(
        json.dumps(
            {
                "then": paid,
                "now": {"sub": "carla", "roles": []},
                "dora-token": {"sub": "dora", "roles": []},
                "root-token": {"sub": "root", "roles": ["kdcube:role:admin"]},
            }
        )
    )
    bench = await bench_with(IDP_DB_PATH=str(users))
    then, now, root, dora = [await bench.client(token) for token in ("then", "now", "root-token", "dora-token")]
    first, second, others = await made(then), await made(now), await made(dora)
    program = await bench.client(first["key"])
    assert (await now.get("/profile")).json()["user_type"] == "registered"
    assert (await program.get("/profile")).json()["user_type"] == "paid"
    (shown,) = [item for item in await listed(root, "/admin/api-keys", user_id="carla") if item["roles"]]
    assert (shown["id"], shown["user_type"]) == (first["api_key"]["id"], "paid")

    for query in ({}, {"user_id": ""}, {"user_id": ["carla", "dora"]}):
        refused(await root.delete("/admin/api-keys", params=query), 400, "invalid_input")
    refused(await now.delete("/admin/api-keys", params={"user_id": "dora"}), 403, "not_administrator")
    told = (await root.delete("/admin/api-keys", params={"user_id": "carla"})).json()
    assert sorted(told["ids"]) == sorted(new["api_key"]["id"] for new in (first, second))
    refused(await program.get("/profile"), 401, "invalid_token")
    assert (await (await bench.client(others["key"])).get("/profile")).status_code == 200
    assert (await root.delete("/admin/api-keys", params={"user_id": "carla"})).json()["ids"] == []
    acts = (await root.get("/admin/audit", params={"act": "api_key.revoked"})).json()["items"]
    assert sorted(act["subject"] for act in acts) == sorted(told["ids"])
