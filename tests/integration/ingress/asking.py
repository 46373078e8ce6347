"""What the tests of ingress send and look for."""

from __future__ import annotations

from typing import Any

import httpx


def body(text: str = "hello", **members: Any) -> dict[str, Any]:
    return {"message": {"text": text, **members}}


async def sent(client: httpx.AsyncClient, text: str = "hello", **members: Any) -> dict[str, Any]:
    """The answer to a message that is accepted."""
    response = await client.post("/sse/chat", json=body(text, **members))
    assert response.status_code == 202, response.text
    return response.json()


def refused(response: httpx.Response, status: int, error: str | None = None) -> dict[str, Any]:
    """The answer to a request that is refused, in the pinned shape."""
    told = response.json()
    assert response.status_code == status, told
    assert {"error", "message", "request_id"} <= told.keys()
    assert set(told) <= {"error", "message", "field", "retry_after_s", "request_id"}
    assert told["request_id"] == response.headers["x-request-id"]
    if error is not None:
        assert told["error"] == error
    return told
