"""Users have their data erased, administrators that of anybody, and nobody else that of another."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.anyio


async def send(client: Any, text: str = "hello", conversation: str = "talk") -> dict[str, Any]:
    answer = await client.post("/sse/chat", json={"message": {"text": text, "conversation_id": conversation}})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def test_oneself(bench):
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    await send(alice)
    await bench.worker.run()
    waiting = await send(alice)
    await send(bob, conversation="bobs")
    key = (await alice.post("/api-keys", json={"name": "mine", "scopes": ["chat"]})).json()
    program = await bench.client(key["key"])
    assert (await program.get("/profile")).json()["username"] == "alice"
    assert (await program.delete("/me")).status_code == 403  # for people only

    answer = await alice.delete("/me")
    assert answer.status_code == 202
    receipt = answer.json()
    assert (receipt["status"], receipt["user_id"], receipt["erased"]["api_keys"]) == ("erasing", "alice", 1)
    assert (await alice.get(f"/me/erasures/{receipt['erasure_id']}")).json() == receipt
    assert (await bob.get(f"/me/erasures/{receipt['erasure_id']}")).status_code == 404
    assert (await program.get("/profile")).status_code == 401
    assert (await alice.get("/conversations")).json()["items"] == []
    assert (await alice.post("/conversations/talk/restore")).status_code == 404
    refused = await alice.post("/sse/chat", json={"message": {"text": "more", "conversation_id": "talk"}})
    assert refused.status_code == 404
    stored = await bench.turns.get(waiting["task_id"])
    assert stored is not None
    assert stored.state == "cancelled"
    assert len((await bob.get("/conversations")).json()["items"]) == 1


async def test_administrators_and_nobody_else(bench):
    alice, root = await bench.client("alice-token"), await bench.client("root-token")
    anonymous = await bench.client()
    await send(alice)
    await bench.worker.run()
    for caller, status in ((alice, 403), (anonymous, 401)):
        assert (await caller.delete("/admin/users/alice")).status_code == status
        assert (await caller.get("/admin/erasures/x")).status_code == status
    assert len((await alice.get("/conversations")).json()["items"]) == 1
    receipt = (await root.delete("/admin/users/alice")).json()
    assert (await root.get(f"/admin/erasures/{receipt['erasure_id']}")).json() == receipt
    assert (await root.get("/admin/erasures/unknown")).status_code == 404
    assert (await alice.get("/conversations")).json()["items"] == []
    acts = (await root.get("/admin/audit")).json()["items"]
    assert [(act["actor"], act["subject"]) for act in acts if act["act"] == "user.erasure_requested"] == [
        ("root", "alice")
    ]
    assert (await root.delete("/admin/users/auth0%7Cnobody%2Fknown")).json()["user_id"] == "auth0|nobody/known"
    odd = "a/b%2F;c?d#e é"
    assert (await root.delete("/admin/users", params={"user_id": odd})).json()["user_id"] == odd
    for query in ({}, {"user_id": ["a", "b"]}, {"user_id": "a\n"}):
        assert (await root.delete("/admin/users", params=query)).status_code == 400
    assert (await alice.delete("/admin/users", params={"user_id": "bob"})).status_code == 403
    key = (await root.post("/api-keys", json={"name": "mine", "scopes": ["admin"]})).json()["key"]
    program = await bench.client(key)
    assert (await program.get("/admin/audit")).status_code == 200
    for path in ("/admin/users/alice", "/admin/users?user_id=alice"):
        assert (await program.delete(path)).json()["error"] == "insufficient_scope"


async def test_an_anonymous_user(bench):
    nobody = await bench.client()
    assert (await nobody.delete("/me")).status_code == 401
    await nobody.get("/profile")
    await send(nobody)
    assert (await nobody.delete("/me")).status_code == 202
    assert (await nobody.get("/conversations")).json()["items"] == []
    assert (await nobody.delete("/me", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
