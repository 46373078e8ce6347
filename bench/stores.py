"""The stores and one ingress process, without proc: for benches that measure ingress alone and play proc themselves."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bench.cpu import CpuMeter, tree
from bench.readers import ask
from bench.system import GATEWAY

from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.local import process, valkey
from kdcube.local.ports import free_port
from kdcube.local.postgres import STOP_SIGNAL, Postgres
from kdcube.local.process import Program
from kdcube.postgres.migrate import migrate
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.epoch import WorkingState
from kdcube.redis.keys import Keys
from kdcube.redis.workers import Workers

KEYS = Keys("bench", "main")
EPOCH = 1
BUNDLE = "echo@1.0.0"
_POLL_S = 0.02
_GRACE_S = 20
_BEAT_S = 3.0


@asynccontextmanager
async def running_valkey() -> AsyncGenerator[int]:
    """The port of an empty Valkey."""
    with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
        port = free_port()
        server = process.start(valkey.valkey_program(Path(folder), port))
        try:
            while not valkey.answers(port):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            yield port
        finally:
            process.stop(server, valkey.STOP_SIGNAL, grace_s=_GRACE_S)


@dataclass(frozen=True, slots=True)
class Database:
    dsn: str
    pid: int


@asynccontextmanager
async def running_postgres() -> AsyncGenerator[Database]:
    """A migrated database that commits to the disk, as every installation does."""
    with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
        Path(folder).chmod(0o755)  # noqa: ASYNC240 - it runs as another account
        server = Postgres(Path(folder) / "postgres", free_port())
        server.prepare()
        child = process.start(server.program())
        try:
            while not server.answers(child.pid):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            await migrate(server.dsn)
            yield Database(server.dsn, child.pid)
        finally:
            process.stop(child, STOP_SIGNAL, grace_s=_GRACE_S)


@dataclass(frozen=True, slots=True)
class IngressAlone:
    """One ingress process on its stores, with a worker that is said to have room for everything."""

    port: int
    pid: int
    redis_url: str
    postgres_pid: int
    valkey_pid: int

    def meter(self) -> CpuMeter:
        return CpuMeter({"ingress": [self.pid], "valkey": [self.valkey_pid], "postgres": tree(self.postgres_pid)})


@asynccontextmanager
async def running_ingress() -> AsyncGenerator[IngressAlone]:
    """Waits until it is ready."""
    async with running_valkey() as valkey_port, running_postgres() as database, AsyncExitStack() as stack:
        redis_url = f"redis://127.0.0.1:{valkey_port}/0"
        connection = await stack.enter_async_context(open_connection(redis_url, name="bench"))
        await publish_epoch(connection)
        await stack.enter_async_context(_beating(Workers(connection, KEYS)))
        facts: bytes = await connection.call("INFO", "server")
        valkey_pid = int(facts.decode().partition("process_id:")[2].split("\r", 1)[0])
        with tempfile.TemporaryDirectory(prefix="kdcube-bench-") as folder:
            port = free_port()
            server = process.start(_ingress_program(Path(folder), port, redis_url, database.dsn), Path(folder) / "log")
            try:
                while await ask(port, "/ready") != 200:
                    if server.poll() is not None:
                        raise RuntimeError((Path(folder) / "log").read_text())
                    await asyncio.sleep(_POLL_S)
                yield IngressAlone(port, server.pid, redis_url, database.pid, valkey_pid)
            finally:
                process.stop(server, valkey.STOP_SIGNAL, grace_s=_GRACE_S)


@asynccontextmanager
async def _beating(workers: Workers) -> AsyncGenerator[None]:
    """A worker that claims nothing lives on."""

    async def beat() -> None:
        while True:
            await workers.beat("bench", slots=100_000, info={})
            await asyncio.sleep(_BEAT_S)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def publish_epoch(connection: Connection) -> None:
    """Opens the working state, which nobody else maintains here."""
    state = WorkingState(connection, KEYS)
    await state.begin(EPOCH)
    await state.publish(EPOCH, max_order=0, run_id="")


def _ingress_program(folder: Path, port: int, redis_url: str, database_url: str) -> Program:
    registry = BundleRegistry(
        default_bundle_id=BUNDLE,
        bundles={BUNDLE: BundleEntry(id=BUNDLE, path=str(resources.files("kdcube") / "echo"))},
    )
    gateway = GATEWAY | {"limits": {**GATEWAY["limits"], "max_running_turns_per_user": 10_000}}  # pyright: ignore
    env = {
        "PATH": os.defpath,
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "AGENTIC_BUNDLES_JSON": registry.model_dump_json(exclude_none=True),
        "GATEWAY_CONFIG_JSON": json.dumps(gateway),
        "GATEWAY_COMPONENT": "ingress",
        "KDCUBE_HOME": str(folder),
        "KDCUBE_SESSION_SECRET": secrets.token_hex(32),
        "CHAT_APP_PORT": str(port),
        "INGRESS_CONTAINER_STOP_TIMEOUT_SEC": "5",
    }
    return Program((sys.executable, "-P", "-m", "kdcube.ingress"), env)
