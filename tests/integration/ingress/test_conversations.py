"""The conversations of a caller over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.ingress.asking import refused, sent

from kdcube.protocol.turns import TurnState
from kdcube.redis.feed import Feeds

pytestmark = pytest.mark.anyio


async def feed_types(bench: Any, user_id: str) -> list[str]:
    queue = bench.worker.queue
    page = await Feeds(queue._connection, queue._keys).read(user_id, 0)
    return [event["type"] for _, event in page.events]


async def test_the_list_is_paged_and_searched(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    for n in range(5):
        await sent(alice, f"message {n}", conversation_id=f"c{n}")
    await sent(bob, "message 3 of bob")
    first = (await alice.get("/conversations", params={"limit": 3})).json()
    rest = (await alice.get("/conversations", params={"limit": 3, "cursor": first["next"]})).json()
    assert rest["next"] is None
    items = [*first["items"], *rest["items"]]
    assert sorted(item["conversation_id"] for item in items) == ["c0", "c1", "c2", "c3", "c4"]
    assert set(items[0]) == {"conversation_id", "title", "started_at", "last_activity_at", "pinned"}
    found = (await alice.get("/conversations", params={"q": "message 3"})).json()
    assert [item["conversation_id"] for item in found["items"]] == ["c3"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=101", "limit"), ("limit=0", "limit"), ("limit=x", "limit"), ("limit=%D9%A3", "limit"),
     ("limit=99999999999999999999", "limit"), ("cursor=nonsense", "cursor"), ("q=" + "x" * 201, "q")],
)  # fmt: skip
async def test_a_bad_page_is_refused(bench: Any, query: str, field: str) -> None:
    alice = await bench.client("alice-token")
    assert refused(await alice.get(f"/conversations?{query}"), 400)["field"] == field


async def test_a_conversation_with_its_turns(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, "what?", turn_id="t1")
    await bench.worker.run()
    second = await sent(alice, "more", conversation_id=first["conversation_id"])
    view = (await alice.get(f"/conversations/{first['conversation_id']}")).json()
    (turn,) = view["turns"]
    assert (turn["turn_id"], turn["task_id"], turn["message"]) == ("t1", first["task_id"], "what?")
    assert (turn["answer"], turn["state"], turn["attempt"]) == ("done", "completed", 1)
    assert [pending["task_id"] for pending in view["pending"]] == [second["task_id"]]


async def test_rename_pin_and_what_the_other_tabs_hear(bench: Any) -> None:
    alice = await bench.client("alice-token")
    url = f"/conversations/{(await sent(alice))['conversation_id']}"
    changed = (await alice.patch(url, json={"title": " A  new\nname ", "pinned": True})).json()
    assert (changed["title"], changed["pinned"]) == ("A new name", True)
    assert (await feed_types(bench, "alice"))[-2:] == ["conversation.renamed", "conversation.pinned"]
    assert (await alice.patch(url, json={})).json() == changed
    refused(await alice.patch(url, json={"title": " "}), 400)
    refused(await alice.patch(url, json={"title": "x" * 201}), 400)
    refused(await alice.patch(url, content=b"{"), 400)


async def test_another_branch_can_be_shown(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, "one", turn_id="t1")
    await bench.worker.run()
    url = f"/conversations/{first['conversation_id']}"
    retried = await alice.post(f"{url}/turns/t1/retry")
    assert retried.status_code == 202, retried.text
    await bench.worker.run()
    view = (await alice.get(url)).json()
    assert [turn["task_id"] for turn in view["turns"]] == [retried.json()["task_id"]]
    assert (await alice.patch(url, json={"head_turn_id": "t1"})).status_code == 200
    view = (await alice.get(url)).json()
    assert [turn["task_id"] for turn in view["turns"]] == [first["task_id"]]
    refused(await alice.patch(url, json={"head_turn_id": "nothing"}), 404)


async def test_delete_cancels_what_runs_and_restore_takes_it_back(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice)
    claim = await bench.worker.start()
    second = await sent(alice, "more", conversation_id=first["conversation_id"])
    url = f"/conversations/{first['conversation_id']}"
    assert (await alice.delete(url)).json()["status"] == "deleted"
    assert (await bench.turns.get(first["task_id"])).cancel_requested
    assert (await bench.turns.get(second["task_id"])).state is TurnState.CANCELLED
    refused(await alice.get(url), 404)
    refused(await alice.delete(url), 404)
    refused(
        await alice.post("/sse/chat", json={"message": {"text": "x", "conversation_id": first["conversation_id"]}}), 404
    )
    await bench.worker.end(claim, TurnState.CANCELLED)
    assert await bench.worker.claim() is None
    assert (await alice.post(f"{url}/restore")).status_code == 200
    assert len((await alice.get(url)).json()["turns"]) == 1
    assert {"conversation.deleted", "conversation.restored"} <= set(await feed_types(bench, "alice"))


async def test_exports_are_downloads_with_a_safe_name(bench: Any) -> None:
    alice = await bench.client("alice-token")
    first = await sent(alice, "grüß")
    await bench.worker.run()
    url = f"/conversations/{first['conversation_id']}"
    await alice.patch(url, json={"title": '../"x"; Grüße'})
    as_json = await alice.get(f"{url}/export")
    assert as_json.headers["content-type"] == "application/json"
    assert as_json.json()["turns"][0]["message"] == "grüß"
    markdown = await alice.get(f"{url}/export?format=md")
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert "grüß" in markdown.text and "done" in markdown.text
    named = markdown.headers["content-disposition"]
    assert named == "attachment; filename=\"x- Gr-e.md\"; filename*=UTF-8''x-%3B%20Gr%C3%BC%C3%9Fe.md"
    refused(await alice.get(f"{url}/export?format=exe"), 400)


async def test_feedback(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    first = await sent(alice, turn_id="t1")
    await bench.worker.run()
    url = f"/conversations/{first['conversation_id']}/turns/t1/feedback"
    assert (await alice.put(url, json={"reaction": "up", "text": "nice"})).status_code == 200
    turn = await bench.turns.get(first["task_id"])
    assert (turn.feedback_reaction, turn.feedback_text) == ("up", "nice")
    refused(await bob.put(url, json={"reaction": "up"}), 404)
    refused(await alice.put(url, json={"reaction": "x" * 33}), 400)
    assert (await alice.put(url, json={"reaction": None, "text": None})).status_code == 200
    assert (await bench.turns.get(first["task_id"])).feedback_reaction is None


async def test_retry_is_a_sibling_and_idempotent(bench: Any) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    first = await sent(alice, "one", turn_id="t1", payload={"a": 1})
    url = f"/conversations/{first['conversation_id']}/turns/t1/retry"
    refused(await alice.post(url), 409, "turn_unfinished")
    await bench.worker.run()
    refused(await bob.post(url), 404)
    again = [(await alice.post(url, headers={"Idempotency-Key": "r"})).json() for _ in range(2)]
    assert again[0]["task_id"] == again[1]["task_id"] != first["task_id"]
    claim = await bench.worker.start()
    assert (claim.envelope.text, claim.envelope.payload) == ("one", {"a": 1})
    assert (await bench.turns.get(claim.envelope.turn_id)).parent_turn_id is None


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/restore"), ("GET", "/export"),
     ("PUT", "/turns/t1/feedback"), ("POST", "/turns/t1/retry")],
)  # fmt: skip
async def test_a_conversation_of_another_user_is_not_found(bench: Any, method: str, path: str) -> None:
    alice, bob = await bench.client("alice-token"), await bench.client("bob-token")
    first = await sent(alice, turn_id="t1")
    body = {"json": {"title": "mine", "reaction": "up"}} if method in {"PATCH", "PUT"} else {}
    for conversation_id in (first["conversation_id"], "nothing", "%00", "a%1fb"):
        refused(await bob.request(method, f"/conversations/{conversation_id}{path}", **body), 404)
    refused(await (await bench.client()).request(method, f"/conversations/c{path}", **body), 401)
