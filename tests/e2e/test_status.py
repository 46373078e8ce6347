"""How a conversation stands: answered by HTTP and, for clients that read it there, on the user's streams."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def test_the_status_that_was_asked_for_comes_on_the_stream_too(trial_stack, connect):
    client = connect(trial_stack)
    sent = await client.sent("x")
    await client.ended(sent["task_id"])
    conversation = {"conversation_id": sent["conversation_id"]}
    async with client.user_stream() as stream:
        await stream.until(lambda event: event.name == "ready")
        response = await client.ask("POST", "/sse/conv_status.get", json={**conversation, "stream_id": "s"})
        assert response.json()["state"] == "idle"
        told = await stream.until(lambda event: event.name == "conv_status")
        assert told.data["data"] == response.json()
        assert told.id
