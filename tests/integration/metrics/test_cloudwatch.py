"""CloudWatch against an emulator, whose stored values equal what was sent; what AWS says no with, against a server that
says it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from tests.integration.secrets.conftest import ACCOUNT, REGION, Emulator
from tests.unit.metrics.pictures import facts, picture, stale

from kdcube.config.exporting import CloudWatchSettings, Renamed
from kdcube.config.signals import Unit
from kdcube.local.ports import free_port
from kdcube.metrics.cloudwatch import BATCH_BYTES, BATCH_METRICS, batches, open_cloudwatch, size_of
from kdcube.metrics.exporting import Datum, Export, export_of
from kdcube.metrics.picture import Picture
from kdcube.metrics.sending import ExportFailed, Resending
from kdcube.protocol.errors import ConfigurationError

pytestmark = pytest.mark.anyio
DIMENSIONS = (("tenant", "acme"), ("env", "prod"))
MAPPING = {
    "ingress.sse.total_connections": Renamed("Ingress/SSEConnections", Unit.COUNT),
    "proc.exec.p95_ms": Renamed(None, Unit.SECONDS),
}


def settings(endpoint: str, *, namespace: str = "KDCube/Metrics", region: str | None = REGION) -> CloudWatchSettings:
    return CloudWatchSettings(
        enabled=True, namespace=namespace, dimensions=DIMENSIONS, region=region, endpoint=endpoint
    )


@pytest.fixture
def namespace():
    return f"KDCube/{uuid4().hex}"


def stored(aws: Emulator, namespace: str) -> dict[tuple[str, str], list[tuple[int, float, float]]]:
    """By name and unit: minute, sum and number of what was stored with exactly our dimensions."""
    client = aws.client("cloudwatch")
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for page in client.get_paginator("list_metrics").paginate(Namespace=namespace):
        for metric in page["Metrics"]:
            assert {pair["Name"]: pair["Value"] for pair in metric["Dimensions"]} == dict(DIMENSIONS)
            now = datetime.datetime.now(datetime.UTC)
            answer = client.get_metric_statistics(
                Namespace=namespace,
                MetricName=metric["MetricName"],
                Dimensions=metric["Dimensions"],
                StartTime=now - datetime.timedelta(hours=1),
                EndTime=now + datetime.timedelta(hours=1),
                Period=60,
                Statistics=["Sum", "SampleCount"],
            )
            for point in answer["Datapoints"]:
                at = int(point["Timestamp"].timestamp())
                found.setdefault((metric["MetricName"], point["Unit"]), []).append(
                    (at, point["Sum"], point["SampleCount"])
                )
    return found


def now_picture(of: Picture | None = None) -> Picture:
    given = of or picture(queue=facts())
    return Picture(int(time.time() * 1000), given.components, given.queue)


async def test_what_is_stored_is_what_was_sent(aws, namespace):
    export = export_of(now_picture(), MAPPING)
    async with open_cloudwatch(settings(aws.endpoint, namespace=namespace), **ACCOUNT) as target:
        await target.send(export)
    minute = export.at_ms // 60_000 * 60
    assert len(export.data) == 11
    assert stored(aws, namespace) == {
        (datum.name, str(datum.unit)): [(minute, pytest.approx(datum.value), 1)] for datum in export.data
    }
    assert {datum.name for datum in export.data} >= {"Ingress/SSEConnections", "chat/proc/queue/backlog_per_slot"}


async def test_of_what_is_stale_nothing_is_stored(aws, namespace):
    async with open_cloudwatch(settings(aws.endpoint, namespace=namespace), **ACCOUNT) as target:
        await target.send(export_of(now_picture(picture((stale("ingress"), stale("proc")))), {}))
        assert stored(aws, namespace) == {}
        await target.send(export_of(now_picture(picture((stale("ingress"), stale("proc")), facts())), {}))
    assert {name for name, _ in stored(aws, namespace)} == {
        "chat/proc/queue/total",
        "chat/proc/queue/backlog_per_slot",
        "chat/proc/slots/utilization",
    }


async def test_many_metrics_go_in_batches(aws, namespace):
    """More than one request takes; each of them is large enough that AWS's library compresses it."""
    data = tuple(
        Datum(key="proc.queue.total", name=f"m{number}", unit=Unit.COUNT, value=float(number), renamed=True)
        for number in range(BATCH_METRICS + 5)
    )
    async with open_cloudwatch(settings(aws.endpoint, namespace=namespace), **ACCOUNT) as target:
        await target.send(Export(int(time.time() * 1000), data))
    client = aws.client("cloudwatch")
    pages = client.get_paginator("list_metrics").paginate(Namespace=namespace)
    assert len([metric for page in pages for metric in page["Metrics"]]) == BATCH_METRICS + 5


async def test_values_that_cloudwatch_does_not_keep_are_left_out(aws, namespace):
    values = {"zero": 0.0, "negative": -1.5, "tiny": 1e-200, "huge": 1e200}
    data = tuple(Datum("proc.queue.total", name, Unit.NONE, value, True) for name, value in values.items())
    async with open_cloudwatch(settings(aws.endpoint, namespace=namespace), **ACCOUNT) as target:
        await target.send(Export(int(time.time() * 1000), data))
    assert {name: told[0][1] for (name, _), told in stored(aws, namespace).items()} == {"zero": 0, "negative": -1.5}


def test_batches_stay_within_both_limits():
    def datum(number: int, dimensions: int) -> dict[str, Any]:
        return {
            "MetricName": f"m{number}",
            "Dimensions": [{"Name": f"d{n}", "Value": "&" * 300} for n in range(dimensions)],
        }

    small = [datum(number, 0) for number in range(2500)]
    large = [datum(number, 30) for number in range(200)]
    for data in (small, large, [], small[:1]):
        made = list(batches(data))
        assert [each for batch in made for each in batch] == data
        for batch in made:
            assert 0 < len(batch) <= BATCH_METRICS and sum(map(size_of, batch)) <= BATCH_BYTES
    assert [len(batch) for batch in batches(small)] == [1000, 1000, 500]


class Aws:
    """Says what ``says`` holds (status and code), then that all is well."""

    def __init__(self) -> None:
        self.says: deque[tuple[int, str]] = deque()
        self.asked = 0
        self.url = ""


@contextmanager
def aws_that_says() -> Iterator[Aws]:
    stands = Aws()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            stands.asked += 1
            status, code = stands.says.popleft() if stands.says else (200, "")
            content = json.dumps({"__type": code, "message": "words of AWS"} if code else {}).encode()
            self.send_response(status)
            if code:
                self.send_header("x-amzn-query-error", f"{code};Sender")
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stands.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield stands
        finally:
            server.shutdown()
            thread.join()


class Sleeps:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.parametrize(
    ("says", "asked", "told"),
    [
        ([(500, "InternalServiceFault"), (400, "Throttling"), (503, "ServiceUnavailable")], 4, None),
        ([(400, "Throttling")] * 9, 5, "does not take it .Throttling: words of AWS"),
        ([(403, "AccessDenied")], 1, "role may not cloudwatch:PutMetricData"),
        ([(403, "ExpiredToken")], 1, "credentials have expired"),
        ([(400, "InvalidParameterValue")], 1, "does not take it .InvalidParameterValue: words of AWS"),
    ],
)
async def test_it_is_sent_again_where_that_helps(says, asked, told):
    sleeps = Sleeps()
    with aws_that_says() as stands:
        stands.says.extend(says)
        resending = Resending(sleep=sleeps, chance=lambda: 1.0)
        async with open_cloudwatch(settings(stands.url), resending, **ACCOUNT) as target:
            if told is None:
                await target.send(export_of(now_picture(), {}))
            else:
                with pytest.raises(ExportFailed, match=told):
                    await target.send(export_of(now_picture(), {}))
        assert stands.asked == asked
    assert sleeps.slept == [0.5, 1, 2, 4][: asked - 1]


async def test_nobody_there():
    sleeps = Sleeps()
    async with open_cloudwatch(
        settings(f"http://127.0.0.1:{free_port()}"), Resending(sleep=sleeps, attempts=2), **ACCOUNT
    ) as target:
        with pytest.raises(ExportFailed, match=r"cannot be asked \(EndpointConnectionError"):
            await target.send(export_of(now_picture(), {}))
    assert len(sleeps.slept) == 1


async def test_a_region_is_needed(monkeypatch, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="METRICS_CLOUDWATCH_REGION: is not set"):
        async with open_cloudwatch(settings("http://127.0.0.1:1", region=None), **ACCOUNT):
            pass
    with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL_CLOUDWATCH: is no URL"):
        async with open_cloudwatch(settings("no url"), **ACCOUNT):
            pass


def test_the_library_of_aws_is_not_imported_before_it_is_needed():
    code = "import sys; import kdcube.metrics.targets; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
