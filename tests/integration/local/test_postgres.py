"""The embedded PostgreSQL, as `kdcube up` runs it: durable, with a password, never as root."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.postgres import STOP_SIGNAL, Postgres, running_dsn
from kdcube.local.process import birth_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Postgres:
    """Under a folder that nobody else may enter, like /root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "postgres", free_port())
    server.prepare()
    return server


@contextmanager
def running(server: Postgres) -> Iterator[subprocess.Popen[bytes]]:
    """Started and ready; stopped at the end."""
    log = server.folder.parent / "log"
    child = process.start(server.program(), log)
    deadline = time.monotonic() + 30
    while not server.answers(child.pid):
        assert time.monotonic() < deadline, log.read_text()
        if child.poll() is not None:  # its last life still held its shared memory
            child = process.start(server.program(), log)
        time.sleep(0.02)
    try:
        yield child
    finally:
        process.stop(child, STOP_SIGNAL, grace_s=20)


async def test_it_keeps_its_data_and_its_promises(server):
    with running(server) as child:
        assert running_dsn(server.folder) == server.dsn
        connection = await asyncpg.connect(server.dsn)
        settings = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
        assert settings == {"fsync": "on", "synchronous_commit": "on"}
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        await connection.close()
        members = [child.pid, *(member.pid for member in psutil.Process(child.pid).children(recursive=True))]
    assert [pid for pid in members if birth_of(pid)] == []
    assert running_dsn(server.folder) is None
    server.prepare()  # as every start does
    with running(server) as child:
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        await connection.close()
        child.send_signal(signal.SIGKILL)
        child.wait()
    with running(server):
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        await connection.close()


async def test_it_wants_its_password(server):
    password = server.folder / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    with running(server), pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn.replace(password.read_text(), "guessed"))


def test_it_never_runs_as_root_and_can_do_nothing_more_than_cross_folders(server):
    with running(server) as child:
        status = Path(f"/proc/{child.pid}/status").read_text()
        owner = (server.folder / "data").stat().st_uid
    facts = {name: value.split() for name, value in (line.split(":", 1) for line in status.splitlines())}
    assert set(facts["Uid"]) == {str(owner)}
    assert owner != 0
    if os.geteuid() != 0:
        assert owner == os.geteuid()  # as another user there is nothing to give up
        return
    crossing = {f"{1 << bit:016x}" for bit in (1, 2)}  # dac_override where a container has no dac_read_search
    assert facts["CapEff"] == facts["CapBnd"] == facts["CapPrm"]
    assert facts["CapEff"][0] in crossing
    assert facts["Groups"] == []


def test_a_start_that_was_interrupted_half_way_is_made_good(tmp_path):
    server = Postgres(tmp_path / "postgres", free_port())
    (server.folder / "data.new" / "base").mkdir(parents=True)
    (server.folder / "password").write_text("of the first attempt")
    server.prepare()
    with running(server):
        assert "of the first attempt" not in server.dsn


def test_the_lock_of_a_server_whose_number_passed_on_is_no_obstacle(server):
    lock = server.folder / "data" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{server.folder / 'data'}\n")
    server.prepare()
    assert not lock.exists()
