"""The user of the metrics service: the whole service works under it, and it can change nothing and read no words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.conftest import StoreServer

from kdcube.config.load import load
from kdcube.config.metrics import MetricsSettings
from kdcube.metrics.app import open_metrics
from kdcube.protocol.turns import UserType
from kdcube.redis.connection import Connection, ServerError, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.permissions import COMMANDS, reading_rule
from kdcube.redis.sources import Sources
from kdcube.redis.workers import Workers
from kdcube.telemetry.instruments import Instruments

pytestmark = pytest.mark.anyio
KEYS = Keys("acme", "support")
PASSWORD = "a-random-one"


@pytest.fixture(params=["valkey_url", "redis7_url"])
async def owner(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """One who may do everything, on a server that has the user."""
    async with open_connection(request.getfixturevalue(request.param), name="owner") as owner:
        await owner.call("ACL", "SETUSER", "metrics", "reset", "on", f">{PASSWORD}", *reading_rule(KEYS))
        await owner.call("ACL", "LOG", "RESET")
        yield owner
        await owner.call("ACL", "DELUSER", "metrics")


def url_of(owner: Connection) -> str:
    return f"redis://metrics:{PASSWORD}@127.0.0.1:{owner._endpoint.port}/0"  # pyright: ignore[reportPrivateUsage]


async def fill(owner: Connection) -> None:
    """Processes that report, workers that beat, and turns that wait."""
    instruments = Instruments()
    report = {**instruments.report(), "source": "proc-1", "component": "proc", "about": {}}
    await Sources(owner, KEYS).write("proc-1", report, kept_s=60, listed_s=120)
    await Workers(owner, KEYS).beat("w1", slots=4, info={})
    await owner.call("SET", KEYS.epoch, 7)
    for number, user_type in enumerate(UserType):
        await owner.call("ZADD", KEYS.queue, 0, f"{user_type}\x1fecho\x1f{number:015}\x1f{number:015}\x1fturn-{number}")


async def test_the_whole_service_works_under_it_and_is_refused_nothing(owner: Connection) -> None:
    await fill(owner)
    settings = load(
        MetricsSettings,
        {"REDIS_URL": url_of(owner), "GATEWAY_CONFIG_JSON": '{"tenant": "acme", "project": "support"}'},
    )
    async with (
        open_metrics(settings) as metrics,
        httpx.AsyncClient(transport=httpx.ASGITransport(metrics), base_url="http://metrics") as client,
    ):
        combined = (await client.get("/metrics/combined")).json()
        assert (await client.get("/ready")).status_code == 200
    assert combined["queue"]["competing"] == dict.fromkeys(UserType, 1)
    assert combined["queue"]["live_slots"] == 4
    assert combined["components"]["proc"]["stale"] is False
    assert await owner.call("ACL", "LOG") == []


async def test_every_command_that_it_may_run_only_reads(owner: Connection) -> None:
    """By the server's own word."""
    harmless = {b"ping", b"select", b"time"}
    for command in COMMANDS:
        ((name, _, flags, *_),) = await owner.call("COMMAND", "INFO", command)
        assert name in harmless or b"readonly" in flags, name
    user: dict[bytes, Any] = await owner.call("ACL", "GETUSER", "metrics")
    assert set(user[b"commands"].decode().split()) - {"-@all"} == {f"+{command}" for command in COMMANDS}
    assert all(pattern.startswith("%R~kd:{acme:support:0}:") for pattern in user[b"keys"].decode().split())
    assert user[b"channels"] == b""


@pytest.mark.parametrize(
    "command",
    [
        ("SET", KEYS.epoch, "8"),
        ("SET", KEYS.source("proc-1"), "{}"),
        ("DEL", KEYS.sources),
        ("ZADD", KEYS.sources, "1", "x"),
        ("HSET", KEYS.schedule, "memory", "0"),
        ("GETDEL", KEYS.epoch),
        ("EXPIRE", KEYS.turns, "1"),
        ("EVAL", "return 1", "0"),
        ("EVALSHA_RO", "0" * 40, "1", KEYS.epoch),
        ("FUNCTION", "LIST"),
        ("GET", KEYS.log("t")),
        ("GET", KEYS.envelopes),
        ("GET", KEYS.login("c")),
        ("HMGET", KEYS.envelopes, "t"),
        ("ZRANGE", KEYS.feed("u"), "0", "-1"),
        ("GET", "kd:{acme:sales:0}:epoch"),
        ("XRANGE", KEYS.log("t"), "-", "+"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("PUBLISH", KEYS.epoch_channel, "9"),
        ("SUBSCRIBE", KEYS.epoch_channel),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("CLIENT", "LIST"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "metrics", "allkeys"),
        ("INFO",),
        ("MONITOR",),
        ("SHUTDOWN", "NOSAVE"),
    ],
    ids=lambda command: " ".join(command)[:40],
)
async def test_anything_else_is_refused(command: tuple[str, ...], valkey_url: str, valkey_server: StoreServer) -> None:
    async with open_connection(valkey_url, name="owner") as owner:
        await owner.call("ACL", "SETUSER", "metrics", "reset", "on", f">{PASSWORD}", *reading_rule(KEYS))
        async with open_connection(url_of(owner), name="metrics") as connection:
            with pytest.raises(ServerError) as caught:
                await connection.call(*command)
    assert caught.value.code == "NOPERM"
