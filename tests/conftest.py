"""Real stores for tests: one Valkey and one PostgreSQL per pytest process (so also per xdist worker)."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.openid.provider import OpenIdProvider, open_provider

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.postgres import STOP_SIGNAL, Postgres
from kdcube.local.process import Program
from kdcube.local.valkey import answers, ask, valkey_program
from kdcube.postgres.migrate import migrate

pytest.register_assert_rewrite("tests.integration.redis.partition")  # before whatever tests it is imported

_START_TIMEOUT_S = 30.0


class StoreServer:
    """A running server on a fixed port. ``kill`` and ``restart`` are for tests of what happens when it dies."""

    def __init__(
        self, program: Program, url: str, port: int, ready: Callable[[int], bool], stop: signal.Signals, log: Path
    ) -> None:
        self.url = url
        self.port = port
        self._program = program
        self._ready = ready
        self._stop_signal = stop
        self._log = log
        self._process = self._launch()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait until it is gone, its children too: a backend of PostgreSQL outlives it for a moment."""
        children = psutil.Process(self.pid).children(recursive=True) if self.running else []
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(children, timeout=_START_TIMEOUT_S)

    def restart(self) -> None:
        """Start it again on the same port (killing it first if it runs) and wait until it answers."""
        self.kill()
        self._process = self._launch()

    def pause(self) -> None:
        """It hangs: all its processes."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        for child in psutil.Process(self.pid).children(recursive=True) if self.running else ():
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    def close(self) -> None:
        self.resume()
        process.stop(self._process, self._stop_signal, grace_s=20)

    def _launch(self) -> subprocess.Popen[bytes]:
        deadline = time.monotonic() + _START_TIMEOUT_S
        child = process.start(self._program, self._log)
        while not self._ready(child.pid):
            if child.poll() is not None:  # such as PostgreSQL whose last life still holds its shared memory
                child = process.start(self._program, self._log)
            if time.monotonic() > deadline:
                process.stop(child, signal.SIGKILL, grace_s=0)
                pytest.fail(f"{self._program.argv[0]} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.02)
        return child


@contextmanager
def open_valkey(folder: Path, binary: str | None = None) -> Iterator[StoreServer]:
    """One more Valkey, or another server of its kind."""
    port = free_port()
    program = valkey_program(folder, port, binary)
    url = f"redis://127.0.0.1:{port}/0"
    server = StoreServer(program, url, port, lambda _: answers(port), signal.SIGTERM, folder / "log")
    try:
        yield server
    finally:
        server.close()


def _flushed(server: StoreServer) -> str:
    if not server.running:
        server.restart()
    server.resume()
    ask(server.port, "FLUSHALL", timeout_s=10)
    return server.url


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with open_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: StoreServer) -> str:
    """An empty Valkey; brought back if the test before has killed it."""
    return _flushed(valkey_server)


@pytest.fixture(scope="session")
def redis7_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("redis-server is not installed: run the tests by `make test`, or apt-get install redis-server")
    with open_valkey(tmp_path_factory.mktemp("redis7"), binary) as server:
        yield server


@pytest.fixture
def redis7_url(redis7_server: StoreServer) -> str:
    """An empty Redis 7.0, the oldest server that is supported."""
    return _flushed(redis7_server)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    folder = tmp_path_factory.mktemp("postgres")
    server = Postgres(folder, free_port(), durable=False)
    server.prepare()
    store = StoreServer(server.program(), server.dsn, server.port, server.answers, STOP_SIGNAL, folder / "log")
    try:
        yield store
    finally:
        store.close()


def _admin(server: StoreServer, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(server.url.replace("/kdcube", "/postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(execute())


@pytest.fixture(scope="session")
def _migrated(postgres_server: StoreServer) -> str:
    """The name of a migrated database that each test gets a copy of."""
    _admin(postgres_server, "CREATE DATABASE kd_template")
    asyncio.run(migrate(postgres_server.url.replace("/kdcube", "/kd_template")))
    return "kd_template"


_databases = iter(range(1_000_000))


@pytest.fixture
def database_url(postgres_server: StoreServer, _migrated: str) -> Iterator[str]:
    """A fresh migrated database; PostgreSQL is brought back if the test before has killed it."""
    if not postgres_server.running:
        postgres_server.restart()
    postgres_server.resume()
    name = f"kd_{next(_databases)}"
    _admin(postgres_server, f"CREATE DATABASE {name} TEMPLATE {_migrated}")
    yield postgres_server.url.replace("/kdcube", f"/{name}")
    if postgres_server.running:
        _admin(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def openid_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdProvider]:
    """A real OpenID provider, on a free port of this machine."""
    with open_provider(tmp_path_factory.mktemp("openid") / "log") as provider:
        yield provider
