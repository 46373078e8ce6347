"""CloudWatch: PutMetricData, in batches as AWS takes them.

boto3 is imported when an export is configured, and called in a thread of its own: it blocks. It finds its credentials
itself (environment, profile, the role of the task or the instance). What is sent again after a lost answer may be there
twice: the same value at the same moment, which changes no average, minimum or maximum.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote_plus

from kdcube.config.exporting import REGION, CloudWatchSettings
from kdcube.metrics.exporting import Datum, Export
from kdcube.metrics.sending import ExportFailed, Resending
from kdcube.protocol.errors import ConfigurationError
from kdcube.telemetry.redaction import redact_text

BATCH_METRICS = 1000
BATCH_BYTES = 950_000
"""Of the 1 MB that a request may have before it is compressed; the rest is for what stands around the metrics."""
SMALLEST, GREATEST = 8.515920e-109, 1.174271e108
"""Of the values that CloudWatch keeps (base 10), but for 0."""

_CONNECT_S, _READ_S = 2.0, 5.0
_REASON_MAX_CHARS = 300
_FIELD_BYTES = 60
"""At most, of the name of one field in a request."""

_REFUSED = {
    "AccessDenied": "this service's role may not cloudwatch:PutMetricData to that namespace",
    "AccessDeniedException": "this service's role may not cloudwatch:PutMetricData to that namespace",
    "UnrecognizedClientException": "its credentials are unknown",
    "InvalidClientTokenId": "its credentials are unknown",
    "SignatureDoesNotMatch": "its credentials are wrong",
    "ExpiredToken": "its credentials have expired",
    "ExpiredTokenException": "its credentials have expired",
}
_NOT_NOW = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "LimitExceeded", "RequestTimeout"})


class CloudWatch:
    """A Target."""

    name = "cloudwatch"

    def __init__(self, client: Any, settings: CloudWatchSettings, resending: Resending) -> None:
        """``client``: boto3's; it is used by one thread at a time."""
        self._client = client
        self._namespace = settings.namespace
        self._dimensions = [{"Name": name, "Value": value} for name, value in settings.dimensions]
        self._resending = resending
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cloudwatch")

    async def send(self, export: Export) -> None:
        """A batch that is refused keeps no other from being sent."""
        failed: ExportFailed | None = None
        for batch in batches(self._data(export)):
            try:
                await self._resending.send(lambda batch=batch: self._put(batch))
            except ExportFailed as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """What is under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _data(self, export: Export) -> Iterable[dict[str, Any]]:
        at = datetime.datetime.fromtimestamp(export.at_ms / 1000, datetime.UTC)
        return [
            {
                "MetricName": datum.name,
                "Dimensions": self._dimensions,
                "Timestamp": at,
                "Value": datum.value,
                "Unit": str(datum.unit),
            }
            for datum in export.data
            if _taken(datum)
        ]

    async def _put(self, batch: list[dict[str, Any]]) -> None:
        def put() -> None:
            self._client.put_metric_data(Namespace=self._namespace, MetricData=batch)

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, put)
        except Exception as error:  # noqa: BLE001 - of a library that has hundreds; all say that it was not taken
            raise _told(error) from None


def _taken(datum: Datum) -> bool:
    return datum.value is not None and (datum.value == 0 or SMALLEST <= abs(datum.value) <= GREATEST)


def batches(data: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Each of at most 1,000 metrics and 1 MB, in order."""
    batch: list[dict[str, Any]] = []
    size = 0
    for datum in data:
        more = size_of(datum)
        if batch and (len(batch) == BATCH_METRICS or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(datum)
        size += more
    if batch:
        yield batch


def size_of(datum: dict[str, Any]) -> int:
    """At most, in a request, whichever of its protocols AWS's library uses; the form's is the longest."""
    dimensions = cast("list[dict[str, str]]", datum["Dimensions"])
    texts = [datum["MetricName"], *(text for pair in dimensions for text in pair.values())]
    return sum(len(quote_plus(text)) + _FIELD_BYTES for text in texts) + 4 * _FIELD_BYTES


@asynccontextmanager
async def open_cloudwatch(
    settings: CloudWatchSettings, resending: Resending | None = None, **session: Any
) -> AsyncGenerator[CloudWatch]:
    """``session``: arguments of ``boto3.Session``, for tests. Raises ConfigurationError."""
    client = await asyncio.to_thread(_client, settings, session)
    target = CloudWatch(client, settings, resending or Resending())
    try:
        yield target
    finally:
        target.close()


def _client(settings: CloudWatchSettings, session: dict[str, Any]) -> Any:
    try:
        boto3 = importlib.import_module("boto3")
    except ImportError:
        raise ConfigurationError("METRICS_EXPORT_CLOUDWATCH", "boto3 is not installed: install kdcube[aws]") from None
    config = importlib.import_module("botocore.config").Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=1,
        user_agent_extra="kdcube",
    )
    no_region = importlib.import_module("botocore.exceptions").NoRegionError
    try:
        return boto3.Session(**session).client(
            "cloudwatch", region_name=settings.region, endpoint_url=settings.endpoint, config=config
        )
    except no_region:
        raise ConfigurationError(REGION, "is not set, nor is AWS_REGION; give the region, as eu-central-1") from None
    except ValueError:  # whose words repeat the endpoint
        raise ConfigurationError("AWS_ENDPOINT_URL_CLOUDWATCH", "is no URL") from None


def _told(error: Exception) -> ExportFailed:
    """Of what boto3 raises."""
    response: Any = getattr(error, "response", None)  # of botocore's ClientError
    if not isinstance(response, dict):
        words = " ".join(redact_text(str(error)).split())[:_REASON_MAX_CHARS]
        none = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
        return ExportFailed(f"CloudWatch cannot be asked ({type(error).__name__}: {words})", again=not none)
    answer = cast("dict[str, Any]", response)
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if why := _REFUSED.get(code):
        return ExportFailed(f"CloudWatch refuses it: {why} ({code})", again=False)
    words = " ".join(redact_text(str(answer.get("Error", {}).get("Message", ""))).split())[:_REASON_MAX_CHARS]
    return ExportFailed(
        f"CloudWatch does not take it ({code or status}: {words})", again=status >= 500 or code in _NOT_NOW
    )
