"""Who a request is from: tokens, sessions, cookies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.ingress.asking import body, refused, sent

pytestmark = pytest.mark.anyio


async def profile(client: Any, **request: Any) -> dict[str, Any]:
    response = await client.get("/profile", **request)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_profile_of_a_signed_in_user(bench: Any) -> None:
    told = await profile(await bench.client("alice-token"))
    assert (told["user_type"], told["user_id"], told["username"]) == ("registered", "alice", "alice")
    assert told["roles"] == ["kdcube:role:chat"]
    assert {bundle["id"] for bundle in told["bundles"]} == {"echo", "other", "members"}
    assert told["default_bundle_id"] == "echo"
    assert told["limits"]["hourly"] == 10_000
    assert (await profile(await bench.client("root-token")))["user_type"] == "privileged"


async def test_an_anonymous_session_lives_in_a_cookie_or_in_its_id(bench: Any) -> None:
    browser = await bench.client()
    response = await browser.get("/profile")
    told = response.json()
    assert told["user_type"] == "anonymous"
    assert {bundle["id"] for bundle in told["bundles"]} == {"echo", "other"}
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Secure" not in cookie
    assert (await profile(browser))["user_id"] == told["user_id"]
    program = await bench.client()
    for request in (
        {"params": {"user_session_id": told["session_id"]}},
        {"headers": {"User-Session-ID": told["session_id"]}},
    ):
        program.cookies.clear()
        assert (await profile(program, **request))["user_id"] == told["user_id"]


async def test_the_cookie_is_secure_behind_https(bench: Any) -> None:
    response = await (await bench.client()).get("/profile", headers={"X-Forwarded-Proto": "https"})
    assert response.headers["set-cookie"].endswith("; Secure")


async def test_a_token_that_is_not_valid_is_never_taken_for_anonymous(bench: Any) -> None:
    for name in ("Authorization", "X-ID-Token"):
        client = await bench.client(**{name: "Bearer nonsense"})
        refused(await client.get("/profile"), 401, "invalid_token")
        refused(await client.post("/sse/chat", json=body()), 401, "invalid_token")


async def test_the_order_of_tokens(bench: Any) -> None:
    client = await bench.client()
    client.cookies.set("__Secure-LATC", "bob-token")
    assert (await profile(client))["user_id"] == "bob"
    assert (await profile(client, headers={"X-ID-Token": "root-token"}))["user_id"] == "root"
    both = {"X-ID-Token": "root-token", "Authorization": "Bearer alice-token"}
    assert (await profile(client, headers=both))["user_id"] == "alice"
    assert (await profile(client, params={"bearer_token": "alice-token"}))["user_id"] == "bob"  # for streams only


async def test_a_session_must_belong_to_the_caller(bench: Any) -> None:
    alice, bob, stranger = [await bench.client(token) for token in ("alice-token", "bob-token", None)]
    of_alice, of_stranger = (await profile(alice))["session_id"], (await profile(stranger))["session_id"]
    assert (await profile(alice, headers={"User-Session-ID": of_alice}))["session_id"] == of_alice
    for session_id in (of_alice, of_stranger, "nonsense"):
        refused(await bob.post("/sse/chat", json=body(), headers={"User-Session-ID": session_id}), 403)
    other = await bench.client()
    await profile(other)
    refused(await other.post("/sse/chat", json=body(), headers={"User-Session-ID": of_stranger}), 403)
    for session_id in (of_alice, "nonsense", of_stranger[:-1] + ("B" if of_stranger.endswith("A") else "A")):
        newcomer = await bench.client(**{"User-Session-ID": session_id})
        refused(await newcomer.post("/sse/chat", json=body()), 401)
    assert await bench.turns.unfinished() == []


async def test_the_profile_replaces_a_session_that_has_expired(bench: Any) -> None:
    client = await bench.client(**{"User-Session-ID": "a1.1.xxxxxxxxxxxxxxxxxxxxxx.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"})
    assert (await profile(client))["session_id"].startswith("a1.")


async def test_at_sign_in_idle_conversations_come_along(bench: Any) -> None:
    browser = await bench.client()
    idle = await sent(browser)
    await bench.worker.run()
    busy = await sent(browser)
    bearer = {"Authorization": "Bearer alice-token"}
    assert (await profile(browser, headers=bearer))["conversations_taken_over"] == 1
    alice = await bench.client("alice-token")
    assert (await alice.get(f"/conversations/{idle['conversation_id']}")).status_code == 200
    refused(await alice.get(f"/conversations/{busy['conversation_id']}"), 404)
    await bench.worker.run()
    assert (await profile(browser, headers=bearer))["conversations_taken_over"] == 1
    assert len((await alice.get("/conversations")).json()["items"]) == 2


async def test_anonymous_users_can_be_switched_off(bench_with: Any) -> None:
    bench = await bench_with(KDCUBE_ANONYMOUS="0")
    stranger = await bench.client()
    refused(await stranger.get("/profile"), 401)
    refused(await stranger.post("/sse/chat", json=body()), 401)
    assert (await stranger.get("/health")).status_code == 200
    assert (await profile(await bench.client("alice-token")))["user_id"] == "alice"


async def test_another_sites_page_cannot_act_by_a_cookie(bench_with: Any) -> None:
    cors = {"allow_origins": ["https://ours.example"], "allow_credentials": True}
    bench = await bench_with(CORS_CONFIG=json.dumps(cors))
    browser = await bench.client()
    await profile(browser)
    theirs = {"Origin": "https://theirs.example", "Sec-Fetch-Site": "cross-site"}
    ours = {"Origin": "https://ours.example", "Sec-Fetch-Site": "cross-site"}
    refused(await browser.post("/sse/chat", json=body(), headers=theirs), 403, "cross_site")
    assert (await browser.post("/sse/chat", json=body(), headers=ours)).status_code == 202


async def test_an_address_opens_so_many_anonymous_sessions_and_no_more(bench: Any) -> None:
    client = await bench.client(address="9.9.9.9")
    answers = []
    for _ in range(70):
        client.cookies.clear()
        answers.append(await client.get("/profile"))
    told = refused(answers[-1], 429, "rate_limit_sessions")
    assert told["retry_after_s"] >= 1
    assert sum(answer.status_code == 200 for answer in answers) >= 60
    known = {"user_session_id": answers[0].json()["session_id"]}
    assert (await profile(client, params=known))["user_id"] == answers[0].json()["user_id"]
