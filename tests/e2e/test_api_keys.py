"""A program talks by an API key, through the command line as through the API."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def test_chat_by_an_api_key(stack, connect):
    admin = connect(stack, "token-admin")
    made = await admin.ask("POST", "/admin/api-keys", json={"name": "nightly", "service": "nightly"})
    assert made.status_code == 201, made.text
    key, key_id = made.json()["key"], made.json()["api_key"]["id"]
    done = stack.kdcube("chat", "hello from a program", "--token", key)
    assert (done.returncode, done.stdout.strip()) == (0, "hello from a program"), done.stderr
    assert key not in stack.logs()
    for at in range(len(stack.ingress)):
        assert (await connect(stack, key).ask("GET", "/conversations", at=at)).status_code == 200
    await admin.ask("DELETE", f"/admin/api-keys/{key_id}")
    refused = stack.kdcube("chat", "hello again", "--token", key)
    assert refused.returncode != 0
    assert "token" in refused.stderr and key not in refused.stderr
