"""The routes for administrators: the configuration that is changed while it runs, the audit log, any turn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.eventually import eventually
from tests.integration.ingress.asking import body, refused, sent
from tests.integration.ingress.conftest import Bench, BenchWith

pytestmark = pytest.mark.anyio
CONFIG = "/admin/gateway-config"
SCOPE = {"tenant": "local", "project": "main"}
ROUTES = [
    ("GET", CONFIG),
    ("PUT", CONFIG),
    ("PATCH", CONFIG),
    ("POST", f"{CONFIG}/validate"),
    ("POST", f"{CONFIG}/reset"),
    ("POST", f"{CONFIG}/rollback"),
    ("GET", f"{CONFIG}/history"),
    ("GET", "/admin/audit"),
    ("GET", "/admin/turns/t1"),
    ("GET", "/monitoring/system"),
]


@pytest.fixture
async def root(bench: Bench) -> httpx.AsyncClient:
    return await bench.client("root-token")


async def told(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()


async def text_limit(client: httpx.AsyncClient) -> int:
    return (await told(await client.get("/profile")))["limits"]["max_text_chars"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_administrators_come_in(bench: Bench, method: str, path: str) -> None:
    anonymous, alice = await bench.client(), await bench.client("alice-token")
    refused(await anonymous.request(method, path, json={}), 401)
    await anonymous.get("/profile")  # has a session now
    refused(await anonymous.request(method, path, json={}), 401)
    refused(await alice.request(method, path, json={}), 403, "not_administrator")


async def test_a_page_of_another_site_may_not_act_by_the_cookie(bench: Bench) -> None:
    browser = await bench.client()
    browser.cookies.set("__Secure-LATC", "root-token")
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    for method, path in ROUTES:
        if method != "GET":
            refused(await browser.request(method, path, json={}, headers=headers), 403, "cross_site")
    assert (await told(await browser.get(CONFIG)))["version"] == 0


async def test_at_first_it_is_the_environments(root: httpx.AsyncClient) -> None:
    response = await root.get(CONFIG)
    shown = await told(response)
    assert (shown["version"], shown["origin"], shown["document"]) == (0, "environment", SCOPE)
    assert shown["resolved"]["limits"]["proc"]["max_queue_size"] == 2000
    assert response.headers["etag"] == f'"{shown["checksum"]}"'
    assert shown["checksum"] == (await told(await root.get("/health")))["config_checksum"]
    assert shown["environment"]["same"]
    assert await told(await root.get(f"{CONFIG}/history")) == {"items": [], "next": None}


async def test_a_patch_is_in_force_at_once_and_leaves_the_rest(root: httpx.AsyncClient) -> None:
    patch = {"limits": {"ingress": {"max_text_chars": 10}}}
    changed = await told(await root.patch(f"{CONFIG}?reason=a+test", json=patch))
    assert changed["changes"] == [{"path": "limits.ingress.max_text_chars", "before": 100_000, "after": 10}]
    assert (changed["changed"], changed["version"], changed["needs_restart"]) == (True, 2, [])
    assert await text_limit(root) == 10
    assert refused(await root.post("/sse/chat", json=body("x" * 11)), 400)["field"] == "message.text"
    assert (await told(await root.get("/health")))["config_checksum"] == changed["checksum"]
    assert '"maxLength":10}' in (await root.get("/openapi.json")).text

    shown = await told(await root.get(CONFIG))
    assert (shown["version"], shown["author"], shown["reason"]) == (2, "root", "a test")
    assert shown["document"] == {**SCOPE, **patch}
    assert not shown["environment"]["same"]


async def test_another_process_follows(bench: Bench, bench_with: BenchWith, root: httpx.AsyncClient) -> None:
    other = await (await bench_with()).client("root-token")
    await told(await root.patch(CONFIG, json={"limits": {"max_text_chars": 10}}))

    async def follows() -> bool:  # it applies what it hears by itself, and tells nobody
        return await text_limit(other) == 10

    await eventually(follows, "the other process has heard of it")
    late = await (await bench_with()).client("root-token")  # starts with it
    assert await text_limit(late) == 10
    assert (await told(await late.get("/ready")))["config_version"] == 2


async def test_of_two_administrators_the_second_is_told(root: httpx.AsyncClient) -> None:
    tag = (await root.get(CONFIG)).headers["etag"]
    first = {**SCOPE, "limits": {"max_queue_size": 7}}
    await told(await root.put(CONFIG, json=first, headers={"If-Match": tag}))
    second = {**SCOPE, "limits": {"max_queue_size": 8}}
    refused(await root.put(CONFIG, json=second, headers={"If-Match": tag}), 412, "precondition_failed")
    refused(await root.put(CONFIG, json=second), 428, "precondition_required")
    refused(await root.patch(CONFIG, json=second, headers={"If-Match": '"1"'}), 412)
    assert (await told(await root.put(CONFIG, json=second, headers={"If-Match": '"2"'})))["version"] == 3
    await told(await root.put(CONFIG, json=first, headers={"If-Match": "*"}))


async def test_at_the_same_moment_one_wins(root: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(root.patch(CONFIG, json={"limits": {"max_queue_size": 10 + number}}) for number in range(4))
    )
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) >= 1
    assert set(codes) <= {200, 409}
    versions = [answer.json()["version"] for answer in answers if answer.status_code == 200]
    assert len(set(versions)) == len(versions)


async def test_everything_that_is_wrong_is_told_at_once(root: httpx.AsyncClient) -> None:
    wrong = {"limits": {"max_queue_size": -1, "max_qeue_size": 5}, "tenant": "another"}
    response = await root.patch(CONFIG, json=wrong)
    assert response.status_code == 400
    assert response.json()["error"] == "invalid_config"
    paths = {error["path"] for error in response.json()["errors"]}
    assert {"limits.max_queue_size", "limits.max_qeue_size"} <= paths
    moved = await root.patch(CONFIG, json={"tenant": "another"})
    assert (moved.status_code, moved.json()["field"]) == (400, "tenant")
    assert (await told(await root.get(CONFIG)))["version"] == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 100_000, b'{"limits":NaN}'])
async def test_what_is_no_document_is_refused(root: httpx.AsyncClient, content: bytes) -> None:
    for path, method in ((CONFIG, "PATCH"), (f"{CONFIG}/validate", "POST"), (f"{CONFIG}/rollback", "POST")):
        refused(await root.request(method, path, content=content), 400)


async def test_a_body_that_is_too_large_is_refused(root: httpx.AsyncClient) -> None:
    refused(await root.patch(CONFIG, content=b'{"a":"' + b"x" * 300_000 + b'"}'), 413)


async def test_a_dry_run_stores_nothing(root: httpx.AsyncClient) -> None:
    patch = {"pools": {"proc": {"pg_pool_max_size": 3}}, "rate_limits": {"paid": {"burst": 0}}}
    valid = await told(await root.post(f"{CONFIG}/validate", json={"patch": patch}))
    assert valid["valid"]
    assert valid["needs_restart"] == [{"path": "pools.proc.pg_pool_max_size", "component": "proc"}]
    assert any("can send nothing" in warning["message"] for warning in valid["warnings"])
    assert valid["resolved"]["pools"]["proc"]["pg_pool_max_size"] == 3
    invalid = await told(await root.post(f"{CONFIG}/validate", json={"document": {"tenant": "local"}}))
    assert not invalid["valid"]
    assert [error["path"] for error in invalid["errors"]] == ["project"]
    assert (await told(await root.get(CONFIG)))["version"] == 0


async def test_what_waits_for_a_restart_is_told_until_it_happened(
    root: httpx.AsyncClient, bench_with: BenchWith
) -> None:
    changed = await told(await root.patch(CONFIG, json={"pools": {"ingress": {"pg_pool_max_size": 3}}}))
    assert changed["needs_restart"] == [{"path": "pools.ingress.pg_pool_max_size", "component": "ingress"}]
    assert (await told(await root.get("/ready")))["config_restart_pending"] == ["pools.ingress.pg_pool_max_size"]
    restarted = await (await bench_with()).client()
    assert "config_restart_pending" not in await told(await restarted.get("/ready"))


async def test_the_same_again_is_no_version(root: httpx.AsyncClient) -> None:
    patch = {"limits": {"max_queue_size": 7}}
    await told(await root.patch(CONFIG, json=patch))
    again = await told(await root.patch(CONFIG, json=patch))
    assert (again["changed"], again["version"]) == (False, 2)


async def test_history_rollback_and_reset(root: httpx.AsyncClient) -> None:
    for size in (7, 8):
        await told(await root.patch(f"{CONFIG}?reason=to+{size}", json={"limits": {"max_queue_size": size}}))
    rolled = await told(await root.post(f"{CONFIG}/rollback", json={"version": 2}))
    assert rolled["version"] == 4
    assert rolled["resolved"]["limits"]["proc"]["max_queue_size"] == 7
    await told(await root.post(f"{CONFIG}/reset"))
    shown = await told(await root.get(CONFIG))
    assert (shown["version"], shown["origin"], shown["document"]) == (5, "reset", SCOPE)

    page = await told(await root.get(f"{CONFIG}/history?limit=3"))
    assert [item["origin"] for item in page["items"]] == ["reset", "rollback", "patch"]
    rest = await told(await root.get(f"{CONFIG}/history?limit=3&cursor={page['next']}"))
    assert [(item["version"], item["origin"], item["reason"]) for item in rest["items"]] == [
        (2, "patch", "to 7"),
        (1, "environment", None),
    ]
    assert rest["items"][0]["changes"] == [
        {"path": f"limits.{component}.max_queue_size", "before": 2000, "after": 7} for component in ("ingress", "proc")
    ]
    assert rest["next"] is None


@pytest.mark.parametrize("version", [0, -1, 99, True, "1", None, 2**70])
async def test_there_is_no_rollback_to_what_is_not_there(root: httpx.AsyncClient, version: Any) -> None:
    answer = await root.post(f"{CONFIG}/rollback", json={"version": version})
    assert answer.status_code in (400, 404)
    assert answer.json()["field"] == "version"


@pytest.mark.parametrize("path", [f"{CONFIG}/history", "/admin/audit"])
@pytest.mark.parametrize("query", ["limit=0", "limit=9999", "limit=x", "cursor=nonsense"])
async def test_pages_refuse_what_they_did_not_give(root: httpx.AsyncClient, path: str, query: str) -> None:
    refused(await root.get(f"{path}?{query}"), 400, "invalid_input")


async def test_acts_and_attempts_are_in_the_audit_log(bench: Bench) -> None:
    root = await bench.client("root-token", address="192.0.2.9")
    changed = await root.patch(f"{CONFIG}?reason=why", json={"limits": {"max_queue_size": 7}})
    await root.patch(CONFIG, json={"limits": {"max_queue_size": "secret"}})
    await root.put(CONFIG, json=SCOPE, headers={"If-Match": '"99"'})
    items = (await told(await root.get("/admin/audit")))["items"]
    assert [(item["act"], item["outcome"]) for item in items] == [
        ("gateway_config.put", "refused"),
        ("gateway_config.patch", "refused"),
        ("gateway_config.patch", "done"),
    ]
    done = items[-1]
    assert (done["actor"], done["address"]) == ("root", "192.0.2.9")
    assert done["request_id"] == changed.headers["x-request-id"]
    assert done["details"]["reason"] == "why"
    assert done["details"]["changes"][0]["after"] == 7
    assert "secret" not in json.dumps(items)
    of_act = (await told(await root.get("/admin/audit?act=gateway_config.put&actor=root")))["items"]
    assert [item["act"] for item in of_act] == ["gateway_config.put"]


async def test_any_turn_is_shown_without_what_was_said_and_the_look_is_recorded(
    bench: Bench, root: httpx.AsyncClient
) -> None:
    alice = await bench.client("alice-token")
    accepted = await sent(alice, "my secret question")
    await bench.worker.run()
    response = await root.get(f"/admin/turns/{accepted['task_id']}")
    shown = await told(response)
    assert (shown["user_id"], shown["state"], shown["attempt"], shown["worker_id"]) == ("alice", "completed", 1, "w1")
    assert "secret" not in response.text
    assert accepted["session_id"] not in response.text
    (entry,) = (await told(await root.get("/admin/audit?act=turn.read")))["items"]
    assert (entry["actor"], entry["subject"], entry["details"]) == ("root", accepted["task_id"], {"user_id": "alice"})


async def test_a_turn_that_is_not_there_is_not_found(root: httpx.AsyncClient) -> None:
    refused(await root.get("/admin/turns/nothing"), 404, "turn_not_found")
    refused(await root.get("/admin/turns/%2e%2e"), 404)


async def test_an_open_stream_goes_on_while_limits_change(bench: Bench, bench_with: BenchWith) -> None:
    """The stream's cap too: what is open stays open, what comes is counted against the new one."""
    root = await bench.client("root-token")
    await told(await root.patch(CONFIG, json={"limits": {"max_sse_connections_per_instance": 1}}))
    assert bench.ingress._streams.max_streams == 1


async def monitored(client: httpx.AsyncClient) -> dict[str, Any]:
    return await told(await client.get("/monitoring/system"))


async def test_the_picture_of_the_system(bench: Bench, root: httpx.AsyncClient) -> None:
    alice = await bench.client("alice-token")
    await sent(alice)
    await alice.get("/nowhere")
    await bench.ingress.report()
    picture = await monitored(root)
    (instance,) = picture["instances"]
    assert (instance["component"], instance["state"]) == ("ingress", "live")
    assert instance["config_checksum"] == picture["config"]["config_checksum"]
    assert instance["gauges"]["postgres_pool_max"] == 8
    assert instance["gauges"]["breaker_open.postgres"] == 0
    assert picture["streams"] == {"open": 0, "cap": 10_000}
    pressure = picture["pressure"]
    assert (pressure["live_slots"], pressure["present"], pressure["running"]) == (100, 1, 0)
    assert pressure["competing"]["registered"] == 1
    assert pressure["capacity"] == 1800
    assert pressure["admitted_to"]["anonymous"] == 1080
    (waiting,) = picture["queue"]
    assert (waiting["user_type"], waiting["state"], waiting["turns"]) == ("registered", "queued", 1)
    assert waiting["oldest_s"] >= 0
    for window in ("1m", "15m", "1h"):
        routes = {(one["method"], one["route"], one["status"]): one for one in picture["latency"][window]}
        send = routes["POST", "/sse/chat", "2xx"]
        assert send["count"] == 1
        assert 0 < send["p50_ms"] <= send["p99_ms"]
        assert ("GET", "none", "4xx") in routes


async def test_refusals_are_counted_by_reason_and_class(bench_with: BenchWith) -> None:
    bench = await bench_with(GATEWAY_CONFIG_JSON=json.dumps({**SCOPE, "rate_limits": {"registered": {"burst": 1}}}))
    alice, root = await bench.client("alice-token"), await bench.client("root-token")
    await sent(alice)
    refused(await alice.post("/sse/chat", json=body("again")), 429, "rate_limit_burst")
    await bench.ingress.report()
    counted = (await monitored(root))["refused"]["1m"]
    assert counted == [{"reason": "rate_limit_burst", "status": "429", "user_type": "registered", "count": 1}]


async def test_without_valkey_the_rest_is_still_told(bench: Bench, root: httpx.AsyncClient, valkey_server: Any) -> None:
    await sent(await bench.client("alice-token"))
    valkey_server.kill()
    picture = await monitored(root)
    assert picture["processes"] == {"unavailable": "StoreUnavailable"}
    assert picture["pressure"] == {"unavailable": "StoreUnavailable"}
    assert picture["queue"][0]["turns"] == 1
    assert (await told(await root.get(CONFIG)))["instances"] is None


async def test_each_process_is_listed_with_what_it_runs(bench: Bench, bench_with: BenchWith) -> None:
    other = await bench_with(INSTANCE_ID="ingress-2")
    root = await other.client("root-token")
    changed = await told(await root.patch(CONFIG, json={"pools": {"ingress": {"pg_pool_max_size": 3}}}))
    await other.ingress.report()
    listed = {one["instance"]: one for one in (await told(await root.get(CONFIG)))["instances"]}
    assert len(listed) == 2
    assert listed["ingress-2"]["config_checksum"] == changed["checksum"]
    assert listed["ingress-2"]["config_restart_pending"] == ["pools.ingress.pg_pool_max_size"]


async def test_no_rate_locks_administrators_out(root: httpx.AsyncClient) -> None:
    nothing = {"privileged": {"burst": 0, "hourly": 0}}
    await told(await root.patch(CONFIG, json={"guarded_rest_patterns": [".*"], "rate_limits": nothing}))
    refused(await root.get("/conversations"), 429)
    await told(await root.post(f"{CONFIG}/reset"))
    await told(await root.get("/conversations"))


async def test_what_a_proxy_does_not_take_over_is_told(root: httpx.AsyncClient) -> None:
    """It was rendered with the limit before: what is larger ends there, whatever the services take."""
    patch = {"limits": {"max_body_bytes": 2_000_000, "max_text_chars": 200_000}}
    for path, given in ((f"{CONFIG}/validate", {"patch": patch}), (CONFIG, patch)):
        verdict = await told(await root.request("POST" if path != CONFIG else "PATCH", path, json=given))
        assert [one["path"] for one in verdict["warnings"]] == [
            "limits.ingress.max_body_bytes",
            "limits.proc.max_body_bytes",
        ]
        assert "rendered again" in verdict["warnings"][0]["message"]
    lower = {"limits": {"max_body_bytes": 1_000_000}}
    assert (await told(await root.patch(CONFIG, json=lower)))["warnings"] == []
