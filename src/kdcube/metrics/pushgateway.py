"""A push gateway of Prometheus: where nothing can scrape this service, it keeps the signals for those who scrape it.

Each push replaces the group whole, so that what is stale is not there any more. Signals are gauges, called by the name
that METRICS_MAPPING_JSON gives them or else by their source key, as in the older service:
``kdcube_ingress_sse_total_connections``. A gateway keeps for ever what it was sent last; how old that is says its own
``push_time_seconds``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    push_to_gateway,  # pyright: ignore[reportUnknownVariableType]
)
from prometheus_client.exposition import basic_auth_handler, default_handler

from kdcube.config.exporting import PushSettings, gauge_name
from kdcube.config.signals import SIGNALS
from kdcube.metrics.exporting import Export
from kdcube.metrics.sending import ExportFailed, Resending
from kdcube.telemetry.redaction import redact_text

_TIMEOUT_S = 5.0
_REASON_MAX_CHARS = 300


class PushGateway:
    """A Target."""

    name = "pushgateway"

    def __init__(self, settings: PushSettings, resending: Resending) -> None:
        self._url, self._handler = _opened(settings.url)
        self._job = settings.job
        self._labels = dict(settings.labels)
        self._resending = resending
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pushgateway")

    async def send(self, export: Export) -> None:
        """Without data the group is emptied."""
        registry = CollectorRegistry(auto_describe=False)
        for datum in export.data:
            if datum.value is not None:
                name = gauge_name(datum.name if datum.renamed else datum.key)
                Gauge(name, SIGNALS[datum.key].help, registry=registry).set(datum.value)
        await self._resending.send(lambda: self._push(registry))

    def close(self) -> None:
        """What is under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _push(self, registry: CollectorRegistry) -> None:
        push = partial(
            push_to_gateway, self._url, self._job, registry, self._labels, timeout=_TIMEOUT_S, handler=self._handler
        )
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, push)
        except HTTPError as error:
            with error:
                words = error.read(_REASON_MAX_CHARS).decode(errors="replace")
            said = " ".join(f"{error.code} {redact_text(words)}".split())
            raise ExportFailed(
                f"the push gateway does not take it ({said})", again=error.code >= 500 or error.code == 429
            ) from None
        except (OSError, HTTPException) as error:
            raise ExportFailed(f"the push gateway does not answer ({redact_text(str(error))})", again=True) from None


def _opened(url: str) -> tuple[str, Callable[..., Callable[[], None]]]:
    """The address without the password, and what sends with it."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, default_handler
    user, password = unquote(parts.username), unquote(parts.password or "")

    def handler(
        url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        return basic_auth_handler(url, method, timeout, headers, data, user, password)

    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), handler


@asynccontextmanager
async def open_push_gateway(settings: PushSettings, resending: Resending | None = None) -> AsyncGenerator[PushGateway]:
    """Connects to nothing yet."""
    target = PushGateway(settings, resending or Resending())
    try:
        yield target
    finally:
        target.close()
