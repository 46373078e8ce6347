"""The port on which a process says what it counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kdcube.config.load import load
from kdcube.config.proc import ProcSettings
from kdcube.gateway.internal import internal_port
from kdcube.local.ports import free_port
from kdcube.protocol.errors import ConfigurationError
from kdcube.telemetry.instruments import Instruments

pytestmark = pytest.mark.anyio

STORES = {"REDIS_URL": "redis://x", "DATABASE_URL": "postgres://x"}


def service(port: int | None) -> Any:
    return SimpleNamespace(component="proc", host="127.0.0.1", internal_port=port)


async def test_it_says_what_was_counted_and_nothing_else() -> None:
    instruments = Instruments()
    instruments.counter("claims", user_type="paid").add(2)
    port = free_port()
    async with (
        internal_port(service(port), instruments),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        told = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        [family] = text_string_to_metric_families(told.text)
        assert (family.name, family.samples[0].value) == ("kdcube_claims", 2)
        assert told.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert (await http.get("/metrics")).headers["content-type"].startswith("text/plain")
        assert (await http.get("/health")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405
    async with internal_port(service(None), instruments):
        pass


async def test_a_port_that_is_taken_is_told_by_its_variable() -> None:
    port = free_port()
    async with internal_port(service(port), Instruments()):
        with pytest.raises(ConfigurationError, match="KDCUBE_INTERNAL_PORT"):
            async with internal_port(service(port), Instruments()):
                pass


def test_it_is_not_the_public_one() -> None:
    assert load(ProcSettings, STORES).service.internal_port is None
    assert load(ProcSettings, {**STORES, "KDCUBE_INTERNAL_PORT": "9100"}).service.internal_port == 9100
    with pytest.raises(ConfigurationError, match=r"KDCUBE_INTERNAL_PORT.*CHAT_PROCESSOR_PORT"):
        load(ProcSettings, {**STORES, "KDCUBE_INTERNAL_PORT": "9100", "CHAT_PROCESSOR_PORT": "9100"})
