"""An ingress in this process on real stores, with a worker that does what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load
from kdcube.ingress.app import Ingress, open_ingress
from kdcube.local.ports import free_port
from kdcube.postgres.database import open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import Ending, Started, StartRequest
from kdcube.postgres.turns import Turns
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import StoreUnavailable
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.turns import TurnState
from kdcube.redis.connection import open_connection
from kdcube.redis.epoch import WorkingState
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Claim, Opened, Queue
from kdcube.redis.workers import Workers

SCOPE = ("local", "main")
TOKENS = {
    "alice-token": {"sub": "alice", "username": "alice", "email": "alice@example.org", "roles": ["kdcube:role:chat"]},
    "bob-token": {"sub": "bob", "username": "bob", "email": "bob@example.org", "roles": []},
    "root-token": {"sub": "root", "username": "root", "email": "", "roles": ["kdcube:role:super-admin"]},
}
BUNDLES = {
    "default_bundle_id": "echo",
    "bundles": {
        "echo": {"path": "/bundles/echo", "name": "Echo"},
        "other": {"path": "/bundles/other"},
        "members": {"path": "/bundles/members", "required_user_type": "registered"},
    },
}


BenchWith = Callable[..., Awaitable["Bench"]]


@dataclass
class FakeWorker:
    """Claims and ends turns, step by step."""

    queue: Queue
    turns: Turns
    workers: Workers
    epoch: int
    running: dict[str, Claim] = field(default_factory=dict)
    alive: asyncio.Event = field(default_factory=asyncio.Event)

    async def live(self) -> None:
        """Heartbeats with a hundred slots, until cancelled."""
        while True:
            with suppress(StoreUnavailable):  # a test may have killed Valkey
                await self.workers.beat("w1", slots=100, info={})
            self.alive.set()
            await asyncio.sleep(3)

    async def claim(self) -> Claim | None:
        claims = await self.queue.claim(
            epoch=self.epoch,
            worker_id="w1",
            revision="local",
            room={"echo": 10, "other": 10, "members": 10},
            claim_ids=[secrets.token_hex(8)],
        )
        assert isinstance(claims, list)
        return claims[0] if claims else None

    async def rebuild(self) -> None:
        """Valkey comes back empty, and is filled from a PostgreSQL in which every turn has ended."""
        connection, keys = self.queue._connection, self.queue._keys
        await connection.call("FLUSHALL")
        state = WorkingState(connection, keys)
        assert await state.begin(self.epoch)
        await self.workers.beat("w1", slots=100, info={})
        assert await state.publish(self.epoch, max_order=await self.turns.max_order(), run_id="test")

    async def start(self) -> Claim | None:
        """Claims a turn and commits its START."""
        claim = await self.claim()
        if claim is None:
            return None
        started = await self.turns.start(
            StartRequest(claim.envelope, claim.order, claim.accepted_ms, claim.claim_id, "w1", "1", self.epoch)
        )
        assert isinstance(started, Started), started
        line = encode_line(Kind.START, "chat.start", ts_ms=started.started_ms, attempt=started.attempt)
        opened = await self.queue.start(
            claim.envelope, claim.claim_id, epoch=self.epoch, attempt=started.attempt, head=b"", line=line
        )
        assert isinstance(opened, Opened)
        self.running[claim.envelope.turn_id] = claim
        return claim

    async def end(self, claim: Claim, state: TurnState = TurnState.COMPLETED, answer: str = "done") -> None:
        envelope = claim.envelope
        finished = await self.turns.finish(
            Ending(
                turn_id=envelope.turn_id,
                claim_id=claim.claim_id,
                state=state,
                ended_ms=claim.accepted_ms + 1,
                text_by_marker={"answer": answer},
            )
        )
        line = terminal_line(state, ts_ms=claim.accepted_ms + 1, attempt=1, answer=answer)
        await self.queue.finish(
            envelope,
            claim.claim_id,
            epoch=self.epoch,
            state=state,
            line=line,
            discarded=getattr(finished, "discarded", []),
        )

    async def run(self) -> Claim:
        """A whole turn."""
        claim = await self.start()
        assert claim is not None
        await self.end(claim)
        return claim


@dataclass
class Bench:
    """An ingress, its worker, and clients."""

    ingress: Ingress
    worker: FakeWorker
    turns: Turns
    stack: AsyncExitStack

    async def client(self, token: str | None = None, address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
        """A client with a cookie jar of its own; anonymous without a token."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(self.ingress, client=(address, 5000))
        return await self.stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        )


@dataclass
class Process:
    """An ingress process."""

    child: subprocess.Popen[bytes]
    url: str
    worker: FakeWorker
    log: Path

    async def until_ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.url) as client:
            while self.child.poll() is None:
                with suppress(httpx.TransportError):
                    if (await client.get("/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.02)
        pytest.fail(f"ingress did not start:\n{self.log.read_text()}")


def environment(valkey_url: str, database_url: str, idp_db_path: str, **more: str) -> dict[str, str]:
    return {
        "REDIS_URL": valkey_url,
        "DATABASE_URL": database_url,
        "KDCUBE_SESSION_SECRET": "s" * 40,
        "AGENTIC_BUNDLES_JSON": json.dumps(BUNDLES),
        "IDP_DB_PATH": idp_db_path,
        **more,
    }


@asynccontextmanager
async def open_worker(settings: IngressSettings) -> AsyncGenerator[FakeWorker]:
    """A published epoch, and a worker that has said that it lives."""
    keys = Keys(*SCOPE)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        connection = await enter(open_connection(settings.service.redis_url, name="test"))
        database = await enter(open_database(settings.service.database_url, name="test"))
        turns = await enter(Turns(database, *SCOPE))
        epochs = Epochs(database, *SCOPE)
        epoch = await epochs.next()
        working_state = WorkingState(connection, keys)
        assert await working_state.begin(epoch)
        await epochs.publish(epoch)
        assert await working_state.publish(epoch, max_order=0, run_id="test")
        worker = FakeWorker(Queue(connection, keys), turns, Workers(connection, keys), epoch)
        life = asyncio.create_task(worker.live())
        await worker.alive.wait()
        try:
            yield worker
        finally:
            life.cancel()
            await asyncio.wait({life})


@asynccontextmanager
async def open_bench(variables: Mapping[str, str]) -> AsyncGenerator[Bench]:
    settings = load(IngressSettings, variables)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(open_worker(settings))
        ingress = await stack.enter_async_context(open_ingress(settings))
        yield Bench(ingress, worker, worker.turns, stack)


@pytest.fixture
def idp_db_path(tmp_path: Any) -> str:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(TOKENS))
    return str(path)


@pytest.fixture
async def bench_with(valkey_url: str, database_url: str, idp_db_path: str) -> AsyncIterator[BenchWith]:
    """Opens a bench with further variables."""
    async with AsyncExitStack() as stack:

        async def open_with(**variables: str) -> Bench:
            given = environment(valkey_url, database_url, idp_db_path, **variables)
            return await stack.enter_async_context(open_bench(given))

        yield open_with


@pytest.fixture
async def bench(bench_with: BenchWith) -> Bench:
    return await bench_with()


@pytest.fixture
async def process(valkey_url: str, database_url: str, idp_db_path: str, tmp_path: Path) -> AsyncIterator[Process]:
    """An ingress in a process of its own; killed at the end if it still runs."""
    port = free_port()
    variables = environment(
        valkey_url, database_url, idp_db_path, CHAT_APP_PORT=str(port), INGRESS_CONTAINER_STOP_TIMEOUT_SEC="10"
    )
    log = tmp_path / "ingress.log"
    async with open_worker(load(IngressSettings, variables)) as worker:
        with log.open("wb") as stderr:
            child = subprocess.Popen([sys.executable, "-m", "kdcube.ingress"], env=variables, stderr=stderr)
        try:
            process = Process(child, f"http://127.0.0.1:{port}", worker, log)
            await process.until_ready()
            yield process
        finally:
            child.kill()
            child.wait()
