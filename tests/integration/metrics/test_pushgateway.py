"""A real push gateway: what it keeps is what was sent last, and what is stale is not there any more."""

from __future__ import annotations

import re

import httpx
import pytest
from tests.unit.metrics.pictures import facts, picture, stale

from kdcube.config.exporting import PushSettings, Renamed
from kdcube.local.ports import free_port
from kdcube.metrics.exporting import export_of
from kdcube.metrics.pushgateway import open_push_gateway
from kdcube.metrics.sending import ExportFailed, Resending

pytestmark = pytest.mark.anyio
LABELS = (("tenant", "acme/eu"), ("project", "support"))


def settings(url: str, job: str, labels=LABELS) -> PushSettings:
    return PushSettings(url=url, job=job, labels=labels)


async def kept(url: str, job: str) -> dict[str, float]:
    """Our gauges of ``job`` with exactly our labels."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{url}/metrics")).text
    labels = f'{{instance="",job="{job}",project="support",tenant="acme/eu"}}'
    return {
        name: float(value)
        for name, shown, value in re.findall(r"^(kdcube_\w+)(\{.*\}) (\S+)$", text, re.MULTILINE)
        if shown == labels
    }


async def test_each_push_replaces_what_was_there(push_gateway):
    mapping = {"ingress.sse.total_connections": Renamed("Ingress/SSEConnections", None)}
    async with open_push_gateway(settings(push_gateway, "replaced")) as target:
        export = export_of(picture(queue=facts()), mapping)
        await target.send(export)
        told = await kept(push_gateway, "replaced")
        assert told["kdcube_Ingress_SSEConnections"] == 300 and told["kdcube_proc_queue_total"] == 20
        assert sorted(told.values()) == sorted(datum.value for datum in export.data)
        await target.send(export_of(picture((stale("ingress"),), facts()), mapping))
        assert await kept(push_gateway, "replaced") == {
            "kdcube_proc_queue_total": 20,
            "kdcube_proc_queue_backlog_per_slot": 0.75,
            "kdcube_proc_capacity_utilization": 0.625,
        }
        await target.send(export_of(picture((stale("ingress"),)), mapping))
        assert await kept(push_gateway, "replaced") == {}


async def test_a_password_goes_as_one(push_gateway):
    """Not in the address, where every proxy would log it; a gateway that asks for none takes it too."""
    url = push_gateway.replace("http://", "http://ops:p%40ss@")
    async with open_push_gateway(settings(url, "password")) as target:
        await target.send(export_of(picture(queue=facts()), {}))
    assert await kept(push_gateway, "password")


async def test_what_is_refused_is_told_and_not_sent_again(push_gateway):
    async with open_push_gateway(settings(push_gateway, "refused", (("a-b", "x"),))) as target:
        with pytest.raises(ExportFailed, match=r"does not take it \(400 "):
            await target.send(export_of(picture(queue=facts()), {}))


async def test_nobody_there():
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    url = f"http://ops:hunter2@127.0.0.1:{free_port()}"
    async with open_push_gateway(settings(url, "nobody"), Resending(sleep=sleep)) as target:
        with pytest.raises(ExportFailed, match="does not answer") as caught:
            await target.send(export_of(picture(queue=facts()), {}))
    assert len(slept) == 4 and "hunter2" not in str(caught.value)
