"""The whole system behind its proxy: ``kdcube up --proxy``."""

from __future__ import annotations

import json
import signal
import ssl
from pathlib import Path

import httpx
import pytest
from tests.e2e.client import Client, Event

pytestmark = pytest.mark.anyio


async def test_behind_the_proxy(new_stack):
    stack = new_stack("--proxy")
    url = stack.state.url
    assert url == f"http://127.0.0.1:{stack.port + 70}"
    await check_a_turn_whose_proxy_dies(stack, Client([url], "token-alice"))
    stack.wait_back()
    found = json.loads(stack.kdcube("status", "--json").stdout)
    (proxy,) = [service for service in found["services"] if service["name"] == "proxy"]
    assert (proxy["url"], proxy["live"], proxy["ready"], bool(proxy["version"])) == (url, True, True, True)
    (ingress, *_) = [service for service in found["services"] if service["name"] == "ingress"]
    assert proxy["config_checksum"] == ingress["config_checksum"]
    assert found["url"] == url

    stack.signal("ingress-1", signal.SIGKILL)
    answers = [httpx.get(f"{url}/chatbot/api/health").status_code for _ in range(6)]
    assert answers == [200] * 6
    assert httpx.get(f"{url}/chatbot/api/integrations/x").status_code == 404
    called = httpx.post(
        f"{url}/chatbot/api/integrations/bundles/local/main/echo@1.0.0/operations/echo",
        json={"data": "x" * 100_000},
        headers={"Authorization": "Bearer token-alice"},
    )
    assert called.json() == {"echo": {"data": "x" * 100_000, "user": "alice"}}
    assert httpx.get(f"{url}/metrics").json()["error"] == "not_found"
    assert "secure" not in httpx.get(f"{url}/chatbot/api/profile").headers["set-cookie"].lower()

    httpx.get(f"{url}/chatbot/api/sse/stream?bearer_token=secret")
    logged = stack.kdcube("logs", "proxy").stdout
    assert '"path": "/chatbot/api/health"' in logged
    assert '"path": "/ready"' not in logged
    assert "secret" not in logged
    stack.wait_back()


async def check_a_turn_whose_proxy_dies(stack, client: Client) -> None:
    """It is killed in the middle of a stream; the supervisor brings it back, and the reader goes on with its cursor."""
    seen: list[Event] = []
    killed = False

    def kill_once(event: Event) -> bool:
        nonlocal killed
        if event.name == "chat_delta" and not killed:
            killed = True
            stack.kill("proxy")
        return event.ends_turn

    try:
        sent = await client.sent("x", echo={"deltas": 200, "delay_ms": 20})
        await client.follow(f"/turns/{sent['turn_id']}/stream", seen, kill_once)
    finally:
        await client.http.aclose()
    offsets = [event.offset for event in seen if event.offset is not None]
    assert killed
    assert offsets == list(range(1, len(offsets) + 1))


def test_with_a_certificate_of_its_own(new_stack):
    stack = new_stack("--proxy", "--ingress", "1", KDCUBE_PROXY_TLS="self-signed")
    secure = f"https://127.0.0.1:{stack.port + 70}"
    certificate = stack.home / "proxy" / "certificate.pem"
    assert (certificate.parent / "key.pem").stat().st_mode & 0o077 == 0
    with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate))) as client:
        assert "; secure" in client.get(f"{secure}/chatbot/api/profile").headers["set-cookie"].lower()
        answer = client.get(f"http://127.0.0.1:{stack.port + 71}/chatbot/api/profile")
        assert (answer.status_code, answer.headers["location"]) == (308, f"{secure}/chatbot/api/profile")
    found = json.loads(stack.kdcube("status", "--json").stdout)
    assert [service["ready"] for service in found["services"] if service["url"] == secure] == [True]
    assert stack.state.url == f"http://127.0.0.1:{stack.port}"
    # A larger body is taken by the services at once, and by the proxy when it was rendered again.
    admin = {"Authorization": "Bearer token-admin"}
    larger = {"limits": {"max_body_bytes": 2_000_000}}
    changed = httpx.patch(f"{stack.ingress[0]}/admin/gateway-config", json=larger, headers=admin).json()
    assert changed["changed"] and changed["warnings"]
    assert sent(secure, certificate) == 413
    before = certificate.read_bytes()
    stack.down()
    stack.up(["--proxy", "--ingress", "1"])
    assert certificate.read_bytes() == before
    assert sent(secure, certificate) == 400
    assert httpx.get(f"{secure}/health", verify=False).json()["config_checksum"] == changed["checksum"]


def sent(site: str, certificate: Path) -> int:
    """The status of a large body, which is no JSON."""
    with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate))) as client:
        body = b" " * 1_500_000
        headers = {"Authorization": "Bearer token-alice"}
        return client.post(f"{site}/chatbot/api/sse/chat", content=body, headers=headers).status_code
