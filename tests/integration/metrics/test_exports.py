"""The metrics service as it is started, from what processes report in Valkey to what stands in CloudWatch and at a push
gateway.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.eventually import eventually
from tests.integration.metrics.test_cloudwatch import stored
from tests.integration.secrets.conftest import ACCOUNT, REGION
from tests.unit.config.test_existing_installation import environment

from kdcube.config.load import load, load_service
from kdcube.config.metrics import MetricsSettings
from kdcube.metrics.app import open_metrics
from kdcube.metrics.main import serve
from kdcube.metrics.sending import ExportFailed
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.keys import Keys
from kdcube.redis.sources import Sources
from kdcube.telemetry.instruments import Instruments

pytestmark = pytest.mark.anyio
KEYS = Keys("acme", "support")


@pytest.fixture
async def connection(valkey_url: str) -> AsyncIterator[Connection]:
    async with open_connection(valkey_url, name="owner") as connection:
        yield connection


async def report(connection: Connection, *, refused: int = 3) -> None:
    """Two processes of ingress, with 7 and 5 streams; one proc."""
    for number, streams in ((1, 7), (2, 5)):
        instruments = Instruments()
        instruments.gauge("streams_open", lambda streams=streams: streams)
        instruments.gauge("streams_cap", lambda: 400)
        instruments.gauge("queue_cap", lambda: 250)
        instruments.counter("requests_refused", reason="rate_limit_burst", status="429", user_type="paid").add(refused)
        told = {**instruments.report(), "source": f"ingress-{number}", "component": "ingress", "about": {}}
        await Sources(connection, KEYS).write(f"ingress-{number}", told, kept_s=60, listed_s=120)
    told = {**Instruments().report(), "source": "proc-1", "component": "proc", "about": {}}
    await Sources(connection, KEYS).write("proc-1", told, kept_s=60, listed_s=120)
    await connection.call("SET", KEYS.epoch, 7)


def of_fixture(valkey_url: str, **variables: str) -> dict[str, str]:
    """The environment file of an existing installation, but for where Valkey is."""
    return {**environment(".env.metrics"), "REDIS_URL": valkey_url, **variables}


def test_the_file_of_an_existing_installation_loads_as_it_is():
    settings, warnings = load_service(MetricsSettings, "metrics", environment(".env.metrics"))
    assert warnings == ["REDIS_PASSWORD: REDIS_URL says where Valkey is, with the password"]
    export = settings.export
    assert (export.scheduled, export.every_s, export.on_start, export.scrape_ttl_s) == (True, 30, True, 10)
    assert export.cloudwatch.dimensions == (("tenant", "acme"), ("project", "support"), ("env", "prod"))
    assert (export.wanted, export.cloudwatch.namespace, export.warnings) == (False, "KDCube/Metrics", ())
    assert export.mapping["ingress.sse.total_connections"].name == "Ingress/SSEConnections"


async def test_once(valkey_url, connection, aws, push_gateway, monkeypatch):
    """METRICS_RUN_ONCE: what two processes report is one figure in both places."""
    for name, value in (("AWS_ACCESS_KEY_ID", "aws_access_key_id"), ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key")):
        monkeypatch.setenv(name, ACCOUNT[value])  # which the library of AWS reads by itself
    await report(connection)
    variables = {
        "METRICS_RUN_ONCE": "1",
        "METRICS_EXPORT_CLOUDWATCH": "1",
        "METRICS_CLOUDWATCH_NAMESPACE": "KDCube/Once",
        "METRICS_CLOUDWATCH_DIMENSIONS_JSON": '{"tenant": "acme", "env": "prod"}',
        "METRICS_CLOUDWATCH_REGION": REGION,
        "AWS_ENDPOINT_URL_CLOUDWATCH": aws.endpoint,
        "METRICS_EXPORT_PROMETHEUS_PUSH": "1",
        "METRICS_PROM_PUSHGATEWAY_URL": push_gateway,
        "METRICS_PROM_JOB_NAME": "once",
    }
    await serve(load(MetricsSettings, of_fixture(valkey_url, **variables)))
    told = {name: points[0][1] for (name, _), points in stored(aws, "KDCube/Once").items()}
    assert told == {
        "Ingress/SSEConnections": 12,
        "chat/ingress/sse/saturation": 0.015,
        "chat/ingress/throttle/rate_limit_429": 6,
        "chat/ingress/throttle/backpressure_503": 0,
        "chat/proc/queue/total": 0,
        "chat/proc/queue/utilization": 0,
    }
    pushed = httpx.get(f"{push_gateway}/metrics").text
    assert 'kdcube_Ingress_SSEConnections{instance="",job="once"} 12\n' in pushed


async def test_once_without_any_figures_fails(valkey_url, push_gateway):
    variables = {"METRICS_EXPORT_PROMETHEUS_PUSH": "1", "METRICS_PROM_PUSHGATEWAY_URL": push_gateway}
    settings = load(MetricsSettings, of_fixture(valkey_url, METRICS_RUN_ONCE="1", **variables))
    with pytest.raises(ExportFailed, match="nothing is known: all sources are stale"):
        await serve(settings)


async def test_at_each_interval(valkey_url, connection, push_gateway):
    await report(connection)
    variables = {
        "METRICS_EXPORT_PROMETHEUS_PUSH": "1",
        "METRICS_PROM_PUSHGATEWAY_URL": push_gateway,
        "METRICS_PROM_JOB_NAME": "often",
        "METRICS_PROM_SCRAPE_TTL_SEC": "0",
    }
    settings = load(MetricsSettings, of_fixture(valkey_url, **variables))
    async with (
        open_metrics(settings) as metrics,
        httpx.AsyncClient(transport=httpx.ASGITransport(metrics), base_url="http://metrics") as client,
    ):

        async def exported() -> bool:  # nothing tells of it but its count
            return 'kdcube_exports_total{component="metrics",outcome="sent",target="pushgateway"} 1.0' in (
                (await client.get("/metrics", headers={"accept": "application/openmetrics-text"})).text
            )

        await eventually(exported, "an export at the start")
        assert (await client.get("/ready")).json()["checks"] == {"valkey": "ok", "export": "ok"}
        page = (await client.get("/metrics/export")).json()
        shown = {metric["source"]: metric for metric in page["metrics"]}
        assert shown["ingress.sse.total_connections"] == {
            "source": "ingress.sse.total_connections",
            "name": "Ingress/SSEConnections",
            "value": 12,
            "unit": "Count",
            "dimensions": {"tenant": "acme", "project": "support", "env": "prod"},
            "stale": False,
        }
        assert (shown["proc.exec.p95_ms"]["value"], shown["proc.exec.p95_ms"]["stale"]) == (None, False)
    assert 'kdcube_ingress_sse_saturation{instance="",job="often"} 0.015\n' in httpx.get(f"{push_gateway}/metrics").text
