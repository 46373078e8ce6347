"""The metrics service on a real Valkey: figures add up, what is silent is stale, the unseen is not told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import StoreServer
from tests.eventually import eventually

from kdcube.config.load import load
from kdcube.config.metrics import MetricsSettings
from kdcube.metrics.app import open_metrics
from kdcube.metrics.gathering import Gathering
from kdcube.metrics.main import run_once
from kdcube.metrics.picture import Picture
from kdcube.metrics.scraped import Scraped
from kdcube.metrics.views import combined_view, component_view
from kdcube.protocol.errors import StoreUnavailable
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources
from kdcube.redis.workers import Workers
from kdcube.telemetry.instruments import SCHEMA, Instruments

pytestmark = pytest.mark.anyio
KEYS = Keys("local", "main")


class Installation:
    """Processes that report when they are told to, and the service."""

    def __init__(self, connection: Connection) -> None:
        self.now = 1_000_000.0
        self.connection = connection
        self.sources = Sources(connection, KEYS)
        self.gathering = Gathering(connection, KEYS, monotonic=lambda: self.now, wall=lambda: self.now)

    def process(self) -> Instruments:
        return Instruments(monotonic=lambda: self.now, wall=lambda: self.now)

    async def report(self, source: str, process: Instruments, **other: Any) -> None:
        report = {
            **process.report(),
            "source": source,
            "component": source.partition("-")[0],
            "about": {"version": "1"},
            **other,
        }
        await self.sources.write(source, report, kept_s=60, listed_s=120)

    async def silence(self, source: str, seconds: float, *, expired: bool = False) -> None:
        """As if so much time had passed since its last report."""
        await self.connection.call("ZINCRBY", KEYS.sources, -int(seconds * 1000), source)
        if expired:
            await self.connection.call("DEL", KEYS.source(source))

    async def gather(self, after_s: float = 5.0) -> Picture:
        self.now += after_s
        return await self.gathering.gather()


@pytest.fixture
async def installation(valkey_url: str) -> AsyncIterator[Installation]:
    async with open_connection(valkey_url, name="test") as connection:
        yield Installation(connection)


def scrape(picture: Picture) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Scraped(0, Instruments()).answer(picture, "").body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels_of(component: str, **labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"component": component, **labels}.items()))


async def test_live_processes_add_up_and_a_killed_one_keeps_what_it_reported(installation: Installation) -> None:
    one, two = installation.process(), installation.process()
    one.gauge("streams_open", lambda: 3)
    two.gauge("streams_open", lambda: 4)
    one.counter("stream_events").add(10)
    two.counter("stream_events").add(1)
    for seconds in (0.1, 0.1, 0.1):
        one.histogram("turn_wait_seconds", user_type="paid").observe(seconds)
    two.histogram("turn_wait_seconds", user_type="paid").observe(30)
    await installation.report("ingress-1", one)
    await installation.report("ingress-2", two)
    ingress = (await installation.gather()).fresh("ingress")
    assert ingress is not None and ingress.live == 2
    assert (ingress.gauge("streams_open"), ingress.greatest("streams_open")) == (7, 4)
    assert ingress.count("stream_events", "1m") == 11
    p95 = ingress.percentile_s("turn_wait_seconds", "1m", 0.95, user_type="paid")
    assert p95 is not None and 20 < p95 < 40  # an average of both processes' would be 15
    assert ingress.percentile_s("turn_wait_seconds", "1m", 0.95, user_type="anonymous") is None

    one.counter("stream_events").add(5)
    two.counter("stream_events").add(100)  # it is killed before it says so
    await installation.report("ingress-1", one)
    await installation.silence("ingress-2", 40)
    picture = await installation.gather()
    ingress = picture.fresh("ingress")
    assert ingress is not None and ingress.live == 1
    assert ingress.gauge("streams_open") == 3
    assert ingress.count("stream_events", "1m") == 16
    assert scrape(picture)["kdcube_stream_events_total", labels_of("ingress")] == 16

    again = installation.process()
    again.counter("stream_events").add(2)
    await installation.report("ingress-1", one)
    await installation.report("ingress-2", again)
    assert scrape(await installation.gather())["kdcube_stream_events_total", labels_of("ingress")] == 18


async def test_a_component_without_a_fresh_source_is_marked_and_has_no_figures(installation: Installation) -> None:
    picture = await installation.gather()
    assert picture.stale() == {"ingress": True, "proc": True, "queue": True}
    process = installation.process()
    process.counter("claims", user_type="paid").add(3)
    process.gauge("slots", lambda: 8)
    await installation.report("proc-1", process)
    await installation.report("proxylogin-1", process)
    assert (await installation.gather()).stale() == {
        "ingress": True,
        "proc": False,
        "proxylogin": False,
        "queue": True,
    }
    await installation.silence("proc-1", 16)
    await installation.silence("proxylogin-1", 70, expired=True)
    picture = await installation.gather()
    assert picture.fresh("proc") is None and picture.fresh("proxylogin") is None
    told = combined_view(picture)["components"]
    assert (told["proc"]["stale"], told["proc"]["gauges"], told["proc"]["counters"]) == (True, None, None)
    assert [(each["instance"], each["state"]) for each in told["proc"]["instances"]] == [("proc-1", "stale")]
    assert [each["instance"] for each in told["proxylogin"]["instances"]] == ["proxylogin-1"]
    samples = scrape(picture)
    assert {key: value for key, value in samples.items() if ("component", "proc") in key[1]} == {
        ("kdcube_component_stale", labels_of("proc")): 1
    }
    await installation.report("proc-1", process)
    samples = scrape(await installation.gather())
    assert samples["kdcube_claims_total", labels_of("proc", user_type="paid")] == 3
    assert samples["kdcube_slots", labels_of("proc")] == 8
    assert samples["kdcube_component_stale", labels_of("proc")] == 0


async def test_a_report_of_another_shape_is_shown_and_not_counted(installation: Installation) -> None:
    await installation.report("proc-1", installation.process(), schema=SCHEMA + 1)
    picture = await installation.gather()
    assert picture.fresh("proc") is None
    assert [(each["instance"], each["state"]) for each in combined_view(picture)["others"]] == [
        ("proc-1", "other_release")
    ]


async def test_the_limits_of_all_are_not_added_up(installation: Installation) -> None:
    for number in (1, 2, 3):
        process = installation.process()
        process.gauge("queue_cap", lambda: 250)
        process.gauge("slots", lambda: 8)
        await installation.report(f"proc-{number}", process)
    picture = await installation.gather()
    proc = picture.fresh("proc")
    assert proc is not None and (proc.greatest("queue_cap"), proc.gauge("slots")) == (250, 24)
    samples = scrape(picture)
    assert samples["kdcube_queue_cap", labels_of("proc")] == 250
    assert samples["kdcube_slots", labels_of("proc")] == 24


async def test_the_queue_is_told_only_while_its_state_is_complete(installation: Installation) -> None:
    connection = installation.connection
    await Workers(connection, KEYS).beat("w1", slots=4, info={})
    assert (await installation.gather()).queue is None
    await connection.call("SET", KEYS.epoch, 1)
    picture = await installation.gather()
    assert picture.queue is not None and picture.queue.live_slots == 4
    view = component_view(picture, "proc")
    assert view is not None and view["queue"]["live_slots"] == 4 and view["stale"] is True
    assert scrape(picture)["kdcube_live_slots", labels_of("queue")] == 4


async def test_valkey_away_is_blindness_and_no_figure_is_lost_by_it(
    installation: Installation, valkey_server: StoreServer
) -> None:
    process = installation.process()
    process.counter("stream_events").add(3)
    await installation.report("ingress-1", process)
    await installation.gather()
    valkey_server.kill()
    picture = await installation.gather()
    assert picture.blind is not None and all(picture.stale().values())
    assert {name for name, _ in scrape(picture)} == {"kdcube_component_stale"}
    with pytest.raises(StoreUnavailable):
        installation.gathering.check()
    process.counter("stream_events").add(4)
    valkey_server.restart()
    await installation.connection.wait_connected(30)
    await installation.report("ingress-1", process)
    assert scrape(await installation.gather())["kdcube_stream_events_total", labels_of("ingress")] == 7
    installation.gathering.check()


async def test_a_picture_that_no_other_follows_is_stale(installation: Installation) -> None:
    await installation.report("ingress-1", installation.process())
    await installation.gather()
    assert installation.gathering.picture.fresh("ingress") is not None
    installation.now += 16
    assert installation.gathering.picture.fresh("ingress") is None
    assert installation.gathering.picture.blind == "nothing was read for 16 s"


async def test_the_service_answers(installation: Installation, valkey_url: str, valkey_server: StoreServer) -> None:
    process = installation.process()
    process.counter("stream_events").add(3)
    await installation.report("ingress-1", process)
    settings = load(MetricsSettings, {"REDIS_URL": valkey_url})
    async with (
        open_metrics(settings, every_s=0.05) as metrics,
        httpx.AsyncClient(transport=httpx.ASGITransport(metrics), base_url="http://metrics") as client,
    ):
        assert (await client.get("/live")).json()["service"] == "metrics"
        assert (await client.get("/ready")).json()["checks"] == {"valkey": "ok"}
        ingress = (await client.get("/metrics/ingress/system")).json()
        assert ingress["counters"] == [
            {"name": "stream_events", "labels": {}, "total": 3, "windows": {"1m": 3, "15m": 3, "1h": 3}}
        ]
        assert (await client.get("/metrics/proc/system")).json()["stale"] is True
        assert (await client.get("/metrics/nobody/system")).status_code == 404
        assert (await client.get("/metrics/combined")).json()["components"]["ingress"]["live"] == 1
        plain = await client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain")
        assert 'kdcube_stream_events_total{component="ingress"} 3.0' in plain.text
        told = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert told.headers["content-type"].startswith("application/openmetrics-text")
        assert told.text.endswith("# EOF\n")
        assert (await client.post("/metrics")).status_code == 405
        valkey_server.kill()

        async def unready() -> bool:
            return (await client.get("/ready")).status_code == 503

        await eventually(unready, "the next reading fails")  # it reads again by its own clock


async def test_a_single_run_that_sees_nothing_fails(valkey_url: str) -> None:
    async with open_connection(valkey_url, name="owner") as owner:
        await owner.call("ACL", "SETUSER", "nobody", "reset", "on", ">x")
        port = owner._endpoint.port  # pyright: ignore[reportPrivateUsage]
        settings = load(MetricsSettings, {"REDIS_URL": f"redis://nobody:x@127.0.0.1:{port}/0", "METRICS_RUN_ONCE": "1"})
        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await run_once(settings)
        await owner.call("ACL", "DELUSER", "nobody")
