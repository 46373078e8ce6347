"""What runs now, as ``kdcube status`` tells it."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kdcube.local.home import Home
from kdcube.local.postgres import Postgres
from kdcube.local.probe import http_facts, http_missing
from kdcube.local.state import ServiceRecord, read_state
from kdcube.local.valkey import answers


class ServiceStatus(msgspec.Struct, frozen=True):
    """``live``: the process is there and answers. ``version`` and ``config_checksum`` are what it says of itself."""

    name: str
    instance: str
    pid: int
    url: str
    live: bool
    ready: bool
    version: str | None = None
    config_checksum: str | None = None


class BundleStatus(msgspec.Struct, frozen=True):
    """A bundle that proc serves. ``host_pids`` is empty until its first turn."""

    id: str
    version: str | None
    default: bool
    host_pids: list[int]


class Status(msgspec.Struct, frozen=True):
    """``url`` is None when nothing runs in ``home``."""

    home: str
    url: str | None
    services: list[ServiceStatus]
    bundles: list[BundleStatus]


async def read_status(home: Home) -> Status:
    """Asks every service that the record names."""
    state = read_state(home.state_file)
    running = [] if state is None else [service for service in state.services if service.process.alive]
    facts = await asyncio.gather(*(_facts(service) for service in running))
    services = await asyncio.gather(*(_status(home, *each) for each in zip(running, facts, strict=True)))
    return Status(str(home.path), state.url if state and running else None, list(services), _bundles(facts))


async def _facts(service: ServiceRecord) -> dict[str, Any] | None:
    return await http_facts(service.url) if service.url.startswith(("http://", "https://")) else None


async def _status(home: Home, service: ServiceRecord, facts: dict[str, Any] | None) -> ServiceStatus:
    port = urlsplit(service.url).port or 0
    match service.name:
        case "valkey":
            live = ready = await asyncio.to_thread(answers, port)
        case "postgres":
            live = ready = Postgres(home.postgres, port).answers(service.process.pid)
        case _:
            live, ready = facts is not None, await http_missing(service.url) is None
    known = facts or {}
    return ServiceStatus(
        name=service.name,
        instance=service.instance,
        pid=service.process.pid,
        url=service.url,
        live=live,
        ready=ready,
        version=known.get("version"),
        config_checksum=known.get("config_checksum"),
    )


def _bundles(facts: list[dict[str, Any] | None]) -> list[BundleStatus]:
    """The bundles of all proc processes, with the hosts of all."""
    merged: dict[str, BundleStatus] = {}
    for known in facts:
        for bundle in msgspec.convert((known or {}).get("bundles", []), list[BundleStatus]):
            before = merged.get(bundle.id)
            pids = [*(before.host_pids if before else []), *bundle.host_pids]
            merged[bundle.id] = msgspec.structs.replace(bundle, host_pids=pids)
    return list(merged.values())
