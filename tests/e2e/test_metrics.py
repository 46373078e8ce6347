"""The metrics service beside real processes: exact, whoever is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.eventually import eventually

from kdcube.redis.connection import open_connection

pytestmark = pytest.mark.anyio


def observed(told: dict[str, Any], component: str, name: str, **labels: str) -> int | None:
    """How often, by a histogram; None while the component is stale."""
    found = told["components"][component]["histograms"]
    if found is None:
        return None
    wanted = labels.items()
    return sum(each["total"]["count"] for each in found if each["name"] == name and wanted <= each["labels"].items())


async def test_totals_are_exact_and_a_kill_takes_none_of_them_back(new_stack: Any, connect: Callable[..., Any]) -> None:
    stack = new_stack("--ingress", "1", "--metrics")
    (url,) = (service.url for service in stack.state.services if service.name == "metrics")
    client, seen = connect(stack, "token-paid"), [0]
    async with httpx.AsyncClient(base_url=url) as metrics:

        async def ended(wanted: int) -> None:
            """Polled, as processes report by their own clocks. It never goes back meanwhile."""

            async def look() -> bool:
                told = (await metrics.get("/metrics/combined")).json()
                started = observed(told, "proc", "turn_wait_seconds")
                if started is not None:
                    assert started >= seen[-1]
                    seen.append(started)
                sent = observed(told, "ingress", "http_request_seconds", route="/sse/chat", status="2xx")
                return started == sent == wanted

            await eventually(look, f"{wanted} turns are told")

        for number in range(3):
            await client.ended((await client.sent(f"before {number}"))["task_id"])
        await ended(3)
        stack.kill("proc-0")
        for number in range(2):
            await client.ended((await client.sent(f"after {number}"))["task_id"])
        await ended(5)
        assert "kdcube_turn_wait_seconds_bucket" in (await metrics.get("/metrics")).text
    async with open_connection(f"redis://127.0.0.1:{stack.port + 90}/0", name="owner") as owner:
        assert await owner.call("ACL", "LOG") == []  # it was refused nothing
        assert b"metrics" in await owner.call("ACL", "USERS")
    password = (stack.home / "metrics-password").read_text()
    said = "".join(log.read_text() for log in stack.home.glob("logs/*.log"))
    arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in stack.pids.values()]
    assert not [text for text in (said, *arguments) if password in text]
    assert "metrics.ready" in stack.kdcube("logs", "metrics").stdout
    assert "metrics-0" in stack.kdcube("status").stdout
