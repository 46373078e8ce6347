"""Task protection against an agent that answers as the ECS agent does, on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.integration.proc.conftest import Client, Deployment

from kdcube.proc.protection import EcsProtection

pytestmark = pytest.mark.anyio


class Agent(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, object]] = []
        self.refusals = 0


class Handler(BaseHTTPRequestHandler):
    server: Agent

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        refused = self.server.refusals > 0
        self.server.refusals -= 1
        answer = json.dumps({"failure": {"Reason": "x"}} if refused else {"protection": body}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def protection(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> EcsProtection:
    monkeypatch.setattr("kdcube.proc.protection._RETRY_S", 0)
    return EcsProtection(f"http://127.0.0.1:{agent.server_port}/api", minutes=35, clock=lambda: agent.now)


async def test_it_is_acknowledged_before_it_returns(agent: Agent, protection: EcsProtection) -> None:
    agent.now, agent.refusals = 1000.0, 2
    await protection.acquire()
    wanted = {"path": "/api/task-protection/v1/state", "ProtectionEnabled": True, "ExpiresInMinutes": 35}
    assert agent.asked == [wanted] * 3


async def test_it_is_asked_again_only_before_it_expires(agent: Agent, protection: EcsProtection) -> None:
    agent.now = 1000.0
    await protection.acquire()
    agent.now += 29 * 60
    await protection.acquire()
    assert len(agent.asked) == 1
    agent.now += 2 * 60
    await protection.acquire()
    assert len(agent.asked) == 2


async def test_only_a_worker_with_work_is_protected(agent: Agent, deployment: Deployment, client: Client) -> None:
    async with deployment.proc(ECS_AGENT_URI=f"http://127.0.0.1:{agent.server_port}/api") as proc:
        await client.epoch()
        assert not proc.worker.running
        assert agent.asked == []
        turn = await client.send("hello")
        assert await client.answer(turn.turn_id) == "hello"
        while len(agent.asked) < 2:
            await asyncio.sleep(0.01)
        assert [asked["ProtectionEnabled"] for asked in agent.asked] == [True, False]


async def test_it_is_released_once(agent: Agent, protection: EcsProtection) -> None:
    agent.now = 1000.0
    await protection.release()
    await protection.acquire()
    await protection.release()
    await protection.release()
    assert [asked["ProtectionEnabled"] for asked in agent.asked] == [True, False]
