"""Processes that start with the stored configuration and follow it, whatever store is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.conftest import StoreServer

from kdcube.config.gateway import GatewayConfig
from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load
from kdcube.gateway.adopting import adopt_config
from kdcube.gateway.applying import follow_config
from kdcube.gateway.following import Following
from kdcube.gateway.live import LiveGateway
from kdcube.postgres.audit import Actor, Audit
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.gateway_configs import GatewayConfigs, StoredConfig
from kdcube.redis.connection import open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.subscriber import open_subscriber

pytestmark = pytest.mark.anyio
SCOPE = ("t", "p")
ROOT = Actor("root")
ENVIRONMENT = {"tenant": "t", "project": "p", "limits": {"max_queue_size": 5}}


def document(queue_size: int) -> dict[str, Any]:
    return {"tenant": "t", "project": "p", "limits": {"max_queue_size": queue_size}}


def settings(database_url: str, **more: str) -> IngressSettings:
    return load(
        IngressSettings,
        {
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "DATABASE_URL": database_url,
            "KDCUBE_SESSION_SECRET": "s" * 40,
            "GATEWAY_CONFIG_JSON": json.dumps(ENVIRONMENT),
            **more,
        },
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def configs(database: Database) -> GatewayConfigs:
    return GatewayConfigs(database, Audit(database, *SCOPE), *SCOPE)


async def store(configs: GatewayConfigs, given: dict[str, Any]) -> StoredConfig:
    last = await configs.last()
    stored = await configs.add(
        after=last.version if last else 0, document=given, checksum="x", actor=ROOT, origin="put"
    )
    assert isinstance(stored, StoredConfig)
    return stored


def queue_size(live: LiveGateway) -> int:
    return live.current.limits.proc.max_queue_size


@asynccontextmanager
async def a_process(
    configs: GatewayConfigs, valkey_url: str, live: LiveGateway, *, check_s: float = 3600
) -> AsyncGenerator[Following]:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(open_connection(valkey_url, name="test"))
        subscriber = await stack.enter_async_context(open_subscriber(valkey_url, name="test"))
        following = follow_config(live, configs, connection, subscriber, Keys(*SCOPE), check_s=check_s)
        yield await stack.enter_async_context(following.following())


def awaited(live: LiveGateway) -> asyncio.Queue[int]:
    """Each queue size that the process is told."""
    told: asyncio.Queue[int] = asyncio.Queue()
    live.subscribe(lambda config: told.put_nowait(config.limits.proc.max_queue_size))
    return told


async def test_without_a_stored_version_the_environment_holds(database_url: str) -> None:
    live = await adopt_config(settings(database_url).service)
    assert (queue_size(live), live.source.version) == (5, 0)


async def test_the_stored_version_wins(database_url: str, configs: GatewayConfigs) -> None:
    await store(configs, document(9))
    live = await adopt_config(settings(database_url).service)
    assert (queue_size(live), live.source.version) == (9, 1)


async def test_the_environment_can_be_imposed_and_that_is_recorded_once(
    database_url: str, configs: GatewayConfigs, database: Database
) -> None:
    await store(configs, document(9))
    forced = settings(database_url, GATEWAY_CONFIG_FORCE_ENV_ON_STARTUP="1", INSTANCE_ID="ingress-7").service
    lives = await asyncio.gather(*(adopt_config(forced) for _ in range(3)))
    assert [(queue_size(live), live.source.version) for live in lives] == [(5, 2)] * 3
    last = await configs.last()
    assert last is not None
    assert (last.version, last.origin, last.author) == (2, "environment", "system:ingress-7")
    assert last.document == ENVIRONMENT
    acts = [entry.act for entry in (await Audit(database, *SCOPE).list()).items]
    assert acts == ["gateway_config.environment", "gateway_config.put"]


async def test_a_version_that_cannot_be_read_is_left_aside_and_told(database_url: str, configs: GatewayConfigs) -> None:
    await store(configs, {**document(9), "of_a_later_release": 1})
    live = await adopt_config(settings(database_url).service)
    assert queue_size(live) == 5
    assert "version 1 cannot be read" in str(live.report("ingress")["config_problem"])


async def test_a_process_applies_what_it_is_told_of(valkey_url: str, configs: GatewayConfigs) -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    told = awaited(live)
    async with a_process(configs, valkey_url, live) as following:
        await store(configs, document(9))
        assert await following.publish(1)
        assert [await told.get(), await told.get()] == [5, 9]
        assert live.source.version == 1


async def test_a_lost_message_matters_until_the_next_look(valkey_url: str, configs: GatewayConfigs) -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    told = awaited(live)
    async with a_process(configs, valkey_url, live, check_s=0.05):
        await store(configs, document(9))
        assert [await told.get(), await told.get()] == [5, 9]


async def test_it_looks_when_valkey_comes_back(
    valkey_url: str, valkey_server: StoreServer, configs: GatewayConfigs
) -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    told = awaited(live)
    async with a_process(configs, valkey_url, live) as following:
        valkey_server.kill()
        await store(configs, document(9))
        assert not await following.publish(1)
        assert await told.get() == 5
        valkey_server.restart()  # here: it ends with the thread that starts it
        assert await told.get() == 9


async def test_it_looks_until_postgres_is_back(
    valkey_url: str, postgres_server: StoreServer, configs: GatewayConfigs
) -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    told = awaited(live)
    async with a_process(configs, valkey_url, live) as following:
        assert await told.get() == 5
        await store(configs, document(9))
        postgres_server.kill()
        assert await following.publish(1)
        postgres_server.restart()
        assert await told.get() == 9


async def test_a_running_process_keeps_what_it_runs_when_it_cannot_read_the_new_one(
    valkey_url: str, configs: GatewayConfigs
) -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    async with a_process(configs, valkey_url, live) as following:
        await store(configs, {**document(9), "of_a_later_release": 1})
        await following.look()
        assert (queue_size(live), live.source.version) == (5, 0)
        assert "of_a_later_release" in str(live.report("proc")["config_problem"])
        await store(configs, document(7))
        await following.look()
        assert (queue_size(live), live.source.version, live.source.problem) == (7, 2, None)


async def test_an_installation_keeps_its_tenant(valkey_url: str, configs: GatewayConfigs) -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    async with a_process(configs, valkey_url, live) as following:
        await store(configs, {**document(9), "tenant": "another"})
        await following.look()
        assert queue_size(live) == 5


def test_restarts_are_told_until_they_happened() -> None:
    live = LiveGateway(GatewayConfig.model_validate(ENVIRONMENT))
    assert "config_restart_pending" not in live.report("ingress")
    changed = GatewayConfig.model_validate({**ENVIRONMENT, "pools": {"ingress": {"pg_pool_max_size": 3}}})
    live.apply(changed)
    assert live.report("ingress")["config_restart_pending"] == ["pools.ingress.pg_pool_max_size"]
    assert "config_restart_pending" not in live.report("proc")
    assert "config_restart_pending" not in LiveGateway(changed).report("ingress")
