"""The servers on which scripts must work, and a partition that is consistent after each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

pytest.register_assert_rewrite("tests.integration.redis.partition")

from tests.integration.redis.partition import Partition, a_partition  # noqa: E402


@pytest.fixture(params=["valkey_url", "redis7_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """An empty server: the embedded Valkey, then Redis 7.0, the oldest that is supported."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def partition(server_url: str) -> AsyncGenerator[Partition]:
    async with a_partition(server_url) as partition:
        yield partition
