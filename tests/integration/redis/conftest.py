"""The servers on which scripts must work, and a partition that is consistent after each test."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import AsyncGenerator, Iterator

import pytest
from tests.integration.redis.partition import Partition, a_partition

from kdcube.local import process
from kdcube.local.ports import free_port
from kdcube.local.valkey import answers, ask, valkey_program

_CLUSTER_BUS = 10_000
_START_TIMEOUT_S = 30.0


@pytest.fixture(params=["valkey_url", "redis7_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """An empty server: the embedded Valkey, then Redis 7.0, the oldest that is supported."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def partition(server_url: str) -> AsyncGenerator[Partition]:
    async with a_partition(server_url) as partition:
        yield partition


@pytest.fixture
def cluster_url(tmp_path) -> Iterator[str]:
    """One node that has all slots of a cluster: it refuses a script whose keys do not share one."""
    port = free_port(_CLUSTER_BUS)
    program = valkey_program(tmp_path, port)
    child = process.start(
        dataclasses.replace(program, argv=(*program.argv, "--cluster-enabled", "yes")), tmp_path / "log"
    )
    try:
        _until(lambda: answers(port))
        ask(port, "CLUSTER ADDSLOTSRANGE 0 16383")
        _until(lambda: _serves(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.stop(child, signal.SIGTERM, grace_s=10)


def _serves(port: int) -> bool:
    try:
        return ask(port, "DEL probe") == "0"
    except OSError:  # CLUSTERDOWN
        return False


def _until(condition) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
