"""Rates as clients meet them: refused, counted, told in header fields, by user, session and address."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.integration.ingress.asking import body, refused, sent

pytestmark = pytest.mark.anyio

_ITEM = re.compile(r'"([a-z]+)";([a-z])=(\d+);([a-z])=(\d+)')
TENANT = {"tenant": "local", "project": "main"}


def gateway(**sections: Any) -> dict[str, str]:
    return {"GATEWAY_CONFIG_JSON": json.dumps({**TENANT, **sections})}


def rates(**limits: int) -> dict[str, Any]:
    """The same for everybody."""
    limit = {"burst": -1, "hourly": -1, "burst_window": 60, **limits}
    return dict.fromkeys(("anonymous", "registered", "paid", "privileged"), limit)


def fields(response: Any) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """What RateLimit-Policy and RateLimit say, by the name of the policy: (q, w) and (r, t)."""
    policy, state = ({}, {})
    for found, name, keys in ((policy, "ratelimit-policy", "qw"), (state, "ratelimit", "rt")):
        for item in response.headers[name].split(", "):
            match = _ITEM.fullmatch(item)
            assert match and match[2] + match[4] == keys, item
            found[match[1]] = (int(match[3]), int(match[5]))
    return policy, state


async def test_answers_to_messages_tell_what_is_left_refused_or_not(bench_with: Any) -> None:
    bench = await bench_with(**gateway(rate_limits=rates(burst=2, hourly=10)))
    alice = await bench.client("alice-token")
    for left in (1, 0):
        response = await alice.post("/sse/chat", json=body())
        assert response.status_code == 202
        policy, state = fields(response)
        assert policy == {"burst": (2, 60), "hourly": (10, 3600)}
        assert (state["burst"][0], state["hourly"][0]) == (left, left + 8)
        assert 0 < state["burst"][1] <= 60 and 3590 <= state["hourly"][1] <= 3600
    response = await alice.post("/sse/chat", json=body())
    told = refused(response, 429, "rate_limit_burst")
    policy, state = fields(response)
    assert state["burst"][0] == 0
    # Not earlier than the end of the window, as the draft wants it.
    assert int(response.headers["retry-after"]) == told["retry_after_s"] == state["burst"][1]
    response = await alice.post("/v1/chat/completions", json={"model": "echo", "messages": []})
    assert response.status_code == 400  # nothing was asked of the limits
    assert "ratelimit" not in response.headers


async def test_without_limits_nothing_is_said_of_them(bench_with: Any) -> None:
    bench = await bench_with(**gateway(rate_limits=rates()))
    alice = await bench.client("alice-token")
    response = await alice.post("/sse/chat", json=body())
    assert response.status_code == 202 and not {"ratelimit", "ratelimit-policy"} & response.headers.keys()
    assert (await alice.get("/profile")).json()["limits_left"] == {}


async def test_pages_of_other_origins_may_read_the_fields(bench_with: Any) -> None:
    bench = await bench_with(CORS_CONFIG=json.dumps({"allow_origins": ["https://ours.example"]}))
    alice = await bench.client("alice-token", Origin="https://ours.example")
    response = await alice.post("/sse/chat", json=body())
    exposed = {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}
    assert {"retry-after", "ratelimit", "ratelimit-policy", "x-request-id"} <= exposed


async def test_the_profile_tells_what_is_left_and_takes_nothing(bench_with: Any) -> None:
    bench = await bench_with(**gateway(rate_limits=rates(burst=5, hourly=10)))
    alice = await bench.client("alice-token")
    await sent(alice)
    for _ in range(3):
        left = (await alice.get("/profile")).json()["limits_left"]
        assert (left["burst"]["left"], left["hourly"]["left"]) == (4, 9)
        assert 0 < left["burst"]["reset_s"] <= 60


async def test_the_profile_is_there_without_valkey(bench: Any, valkey_server: Any) -> None:
    alice = await bench.client("alice-token")
    valkey_server.kill()
    assert (await alice.get("/profile")).json()["limits_left"] is None


async def test_sessions_do_not_multiply_a_limit(bench_with: Any) -> None:
    """Of an anonymous user, whose session was renewed: both ids are valid, and the same user's."""
    bench = await bench_with(**gateway(rate_limits=rates(burst=2)))
    browser = await bench.client()
    await sent(browser)
    session_id = (await browser.get("/profile")).json()["session_id"]
    for headers in ({"User-Session-ID": session_id}, {}):
        response = await browser.post("/sse/chat", json=body(), headers=headers)
    refused(response, 429, "rate_limit_burst")


async def test_cookies_do_not_multiply_the_limit_of_an_address(bench_with: Any) -> None:
    bench = await bench_with(**gateway(rate_limits=rates(burst=2), limits={"max_anonymous_users_per_address": 5}))
    client = await bench.client(address="9.9.9.9")
    answers = []
    for _ in range(15):
        client.cookies.clear()  # each time somebody new
        answers.append(await client.post("/sse/chat", json=body()))
    assert [answer.status_code for answer in answers] == [202] * 10 + [429] * 5  # as five users
    refused(answers[-1], 429, "rate_limit_burst")
    elsewhere = await bench.client(address="9.9.9.8")
    await sent(elsewhere)
    alice = await bench.client("alice-token", address="9.9.9.9")
    await sent(alice)  # who has signed in is not anonymous


async def test_a_forged_address_does_not_help(bench_with: Any) -> None:
    limits = gateway(rate_limits=rates(burst=1), limits={"max_anonymous_users_per_address": 5})
    bench = await bench_with(**limits, KDCUBE_TRUSTED_PROXIES="10.0.0.0/8")
    direct, behind = await bench.client(address="9.9.9.9"), await bench.client(address="10.0.0.7")
    for client, forwarded, known in ((direct, "{n}.1.1.1", 5), (behind, "{n}.1.1.1, 9.9.9.7", 5)):
        answers = []
        for n in range(1, 9):
            client.cookies.clear()
            headers = {
                "X-Forwarded-For": forwarded.format(n=n),
                "X-Real-IP": f"{n}.2.2.2",
                "Forwarded": f"for={n}.3.3.3",
            }
            answers.append((await client.post("/sse/chat", json=body(), headers=headers)).status_code)
        assert answers == [202] * known + [429] * (8 - known)


async def test_guarded_paths_count_and_others_do_not(bench_with: Any) -> None:
    bench = await bench_with(
        **gateway(rate_limits=rates(burst=3), guarded_rest_patterns=["^/conversations$", "^/sse/.*"])
    )
    alice = await bench.client("alice-token")
    for path in ("/conversations", "/chatbot/api/conversations"):
        response = await alice.get(path)
        assert response.status_code == 200
    assert fields(response)[1]["burst"][0] == 1
    assert "ratelimit" not in (await alice.get("/profile")).headers
    response = await alice.post("/sse/chat", json=body())  # counted once, by admission
    assert fields(response)[1]["burst"][0] == 0
    response = await alice.get("/conversations")
    told = refused(response, 429, "rate_limit_burst")
    assert fields(response)[1]["burst"] == (0, told["retry_after_s"])
    for path in ("/conversations?x=1", "/%63onversations", "/chatbot/api/conversations#"):
        refused(await alice.get(path), 429, "rate_limit_burst")
    assert (await alice.get("//conversations")).status_code == 404


async def test_bypassed_paths_know_no_rates_but_pressure(bench_with: Any) -> None:
    bench = await bench_with(
        **gateway(
            rate_limits=rates(burst=1),
            bypass_throttling_patterns=["/sse/chat$"],
            guarded_rest_patterns=["/bundles$"],
            limits={"max_queue_size": 3},
        )
    )
    alice = await bench.client("alice-token")
    for _ in range(3):
        response = await alice.post("/sse/chat", json=body())
        assert response.status_code == 202 and "ratelimit" not in response.headers
    told = refused(await alice.post("/sse/chat", json=body()), 503, "queue_full")
    assert told["retry_after_s"] >= 1


async def test_an_opened_session_counts_at_all_processes(bench_with: Any) -> None:
    benches = [await bench_with() for _ in range(2)]
    codes: list[int] = []
    for turn in range(70):
        for bench in benches:
            client = await bench.client(address=f"2001:db8:0:7::{turn:x}", **{"X-Forwarded-For": f"{turn}.1.1.1"})
            codes.append((await client.get("/profile")).status_code)
    assert set(codes) == {200, 429}
    assert 60 <= codes.count(200) <= 75  # a burst of 60, and half a one in each second that it took
    neighbour = await benches[0].client(address="2001:db8:0:8::1")
    assert (await neighbour.get("/profile")).status_code == 200


async def test_sessions_are_limited_without_valkey_too(bench: Any, valkey_server: Any) -> None:
    valkey_server.kill()
    codes = []
    for _ in range(80):
        client = await bench.client(address="9.9.9.9")
        codes.append((await client.get("/profile")).status_code)
    assert codes[:60] == [200] * 60 and 429 in codes


async def test_a_line_feed_hides_no_path_from_a_pattern(bench_with: Any) -> None:
    """A router may match it with one behind its end, where a pattern that ends with $ does not."""
    bench = await bench_with(
        **gateway(rate_limits=rates(burst=1), guarded_rest_patterns=["^/conversations$", "^/profile$"])
    )
    alice = await bench.client("alice-token")
    assert (await alice.get("/conversations")).status_code == 200
    refused(await alice.get("/conversations"), 429, "rate_limit_burst")
    for written in ("/conversations%0A", "/conversations%0a", "/profile%0A", "/conversations%0D", "/conversations%00"):
        for prefix in ("", "/chatbot/api"):
            refused(await alice.get(prefix + written), 404, "not_found")
