"""What surrounds the routes: health, readiness, errors, headers, CORS."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.ingress.asking import body, refused

from kdcube.protocol.errors import ConfigurationError

pytestmark = pytest.mark.anyio


async def test_health_and_readiness(bench: Any) -> None:
    client = await bench.client()
    health = (await client.get("/chatbot/api/health")).json()
    assert (health["status"], health["service"]) == ("alive", "ingress")
    assert {"instance", "version", "config_checksum"} <= health.keys()
    ready = await client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"valkey": "ok", "postgres": "ok", "epoch": "ok"}


async def test_readiness_names_what_fails(bench: Any, postgres_server: Any, valkey_server: Any) -> None:
    client = await bench.client()
    postgres_server.kill()
    try:
        response = await client.get("/ready")
        assert (response.status_code, response.json()["failing"]) == (503, ["postgres"])
        assert response.headers["retry-after"] == "1"
        assert str(postgres_server.port) not in response.text  # anybody may ask
    finally:
        postgres_server.restart()
    valkey_server.kill()
    response = await client.get("/ready")
    assert response.status_code == 503
    assert "valkey" in response.json()["failing"]
    assert str(valkey_server.port) not in response.text
    assert (await client.get("/health")).status_code == 200


async def test_a_drain_shows_in_readiness_while_requests_are_served_on(bench: Any) -> None:
    alice = await bench.client("alice-token")
    await bench.ingress.drain()
    told = (await alice.get("/ready")).json()
    assert (told["status"], told["error"]) == ("draining", "draining")
    assert (await alice.post("/sse/chat", json=body())).status_code == 202
    refused(await alice.get("/sse/stream"), 503, "draining")


async def test_errors_of_routing_have_the_same_shape(bench: Any) -> None:
    client = await bench.client()
    refused(await client.get("/nothing"), 404, "not_found")
    refused(await client.get("/chatbot/api"), 404, "not_found")
    refused(await client.get("/conversations/"), 404, "not_found")
    response = await client.get("/sse/chat")
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_what_nobody_expected_shows_no_detail(bench: Any, monkeypatch: Any, capsys: Any) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("postgres://secret")

    monkeypatch.setattr(type(bench.turns), "admit", fail)
    alice = await bench.client("alice-token")
    told = refused(await alice.post("/sse/chat", json=body()), 500, "internal")
    assert "secret" not in json.dumps(told)
    assert told["request_id"] in capsys.readouterr().out


async def test_each_response_has_its_headers(bench: Any) -> None:
    client = await bench.client()
    for path in ("/health", "/nothing"):
        headers = (await client.get(path, headers={"X-Request-ID": "from-the-client"})).headers
        assert headers["x-request-id"] == "from-the-client"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    insane = (await client.get("/health", headers={"X-Request-ID": "a b\tc"})).headers["x-request-id"]
    assert len(insane) == 32


async def test_cors_is_off_unless_configured(bench: Any, bench_with: Any) -> None:
    asking = {"Origin": "https://ours.example", "Access-Control-Request-Method": "POST"}
    client = await bench.client()
    assert "access-control-allow-origin" not in (await client.get("/health", headers=asking)).headers
    cors = {"allow_origins": ["https://ours.example"], "allow_credentials": True}
    client = await (await bench_with(CORS_CONFIG=json.dumps(cors))).client()
    preflight = await client.options("/sse/chat", headers=asking)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://ours.example"
    assert preflight.headers["access-control-allow-credentials"] == "true"
    refusal = await client.post("/sse/chat", content=b"{", headers=asking)
    assert refused(refusal, 400) and refusal.headers["access-control-allow-origin"] == "https://ours.example"
    theirs = await client.get("/health", headers={"Origin": "https://theirs.example"})
    assert "access-control-allow-origin" not in theirs.headers


async def test_any_origin_with_credentials_is_no_configuration(bench_with: Any) -> None:
    with pytest.raises(ConfigurationError, match="allow_origins"):
        await bench_with(CORS_CONFIG=json.dumps({"allow_origins": "*", "allow_credentials": True}))


async def test_the_list_of_bundles_is_public(bench: Any) -> None:
    told = (await (await bench.client()).get("/bundles")).json()
    assert {item["id"]: item["default"] for item in told["items"]} == {"echo": True, "other": False, "members": False}
