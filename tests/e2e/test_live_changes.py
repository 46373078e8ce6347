"""Limits that are changed while the system runs: in force in all processes, and no stream notices."""

from __future__ import annotations

import pytest
from tests.e2e.client import Client, state
from tests.e2e.conftest import TRIAL
from tests.eventually import eventually

from kdcube.gateway.following import CHECK_S

pytestmark = pytest.mark.anyio
CONFIG = "/admin/gateway-config"
TIMEOUT_S = 5 * CHECK_S


async def checksums(admin: Client, urls: list[str]) -> set[str]:
    return {(await admin.http.get(f"{url}/health")).json()["config_checksum"] for url in urls}


async def until_all_run(admin: Client, urls: list[str], checksum: str) -> None:
    """A process says what it runs when it is asked, and to nobody else."""

    async def all_do() -> bool:
        return await checksums(admin, urls) == {checksum}

    await eventually(all_do, f"all run {checksum}", within_s=TIMEOUT_S)


async def change(admin: Client, patch: dict[str, object]) -> str:
    """The checksum of what is to be run then."""
    response = await admin.ask("PATCH", CONFIG, json=patch)
    assert response.status_code == 200, response.text
    return response.json()["checksum"]


@pytest.mark.timeout(180)
async def test_a_limit_is_enforced_everywhere_while_a_stream_goes_on(new_stack, connect, gate):
    stack = new_stack("--bundle", str(TRIAL))
    admin, user, other = connect(stack, "token-admin"), connect(stack), connect(stack)
    proc = next(service.url for service in stack.state.services if service.name == "proc")
    everywhere = [*stack.ingress, proc]
    assert len(stack.ingress) >= 2

    held = await user.sent("x", trial={"hold": str(gate)})
    async with user.turn_stream(held["task_id"], at=1) as stream:
        await stream.until(lambda event: event.name == "chat_delta")
        patch = {
            "limits": {"max_text_chars": 5, "max_running_turns_per_user": 1, "max_sse_connections_per_instance": 1}
        }
        await until_all_run(admin, everywhere, await change(admin, patch))

        for at in range(len(stack.ingress)):
            response = await other.ask("POST", "/sse/chat", at=at, json={"message": {"text": "too long"}})
            assert (response.status_code, response.json()["field"]) == (400, "message.text")
        # The stream that is open is above no limit; one more is.
        response = await other.ask("GET", "/sse/stream", at=1)
        assert (response.status_code, response.json()["error"]) == (503, "too_many_streams")
        # proc: a second turn of the same user waits now.
        second = await user.sent("y")
        passed_by = await other.sent("z")
        await other.ended(passed_by["task_id"], at=0)
        status = await user.ask("POST", "/sse/conv_status.get", json={"conversation_id": second["conversation_id"]})
        assert status.json()["state"] == "queued"

        async def all_reported() -> list[dict]:
            """Reports are written every few seconds, and nobody is told."""
            told = (await admin.ask("GET", "/monitoring/system")).json()["instances"]
            return told if {one.get("config_checksum") for one in told} == await checksums(admin, everywhere) else []

        monitored = await eventually(all_reported, "all have reported what they run", within_s=TIMEOUT_S)
        assert sorted(one["component"] for one in monitored) == ["ingress"] * len(stack.ingress) + ["proc"]

        gate.open()
        events = await stream.rest()
        assert state(events) == "completed"
    await user.ended(second["task_id"])


@pytest.mark.timeout(180)
async def test_what_was_stored_is_run_after_a_restart_and_pools_wait_for_it(new_stack, connect):
    stack = new_stack()
    admin = connect(stack, "token-admin")
    patch = {"pools": {"pg_pool_max_size": 3}, "limits": {"max_text_chars": 7}}
    checksum = await change(admin, patch)
    await until_all_run(admin, stack.ingress, checksum)
    ready = (await admin.http.get(f"{stack.ingress[1]}/ready")).json()
    assert ready["config_restart_pending"] == ["pools.ingress.pg_pool_max_size"]
    stack.kill("ingress-1")
    stack.wait_back()
    ready = (await admin.http.get(f"{stack.ingress[1]}/ready")).json()
    assert ready["config_checksum"] == checksum
    assert "config_restart_pending" not in ready
