"""Proc's HTTP: operations of bundles, health and readiness."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp

from kdcube import __version__
from kdcube.config.auth import Cors
from kdcube.config.proc import ProcSettings
from kdcube.gateway.edge import Edge, with_cors
from kdcube.gateway.identity.scopes import DOCUMENT, OPERATION
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.routing import no_route, route
from kdcube.gateway.traffic import Traffic
from kdcube.postgres.database import Database
from kdcube.proc.bundles.pool import HostPool
from kdcube.proc.preparing import Preparing
from kdcube.proc.rest.operations import OperationRoutes
from kdcube.proc.worker import Worker
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import Connection
from kdcube.redis.epoch import EpochWatch
from kdcube.secrets.secrets import Secrets
from kdcube.telemetry.tracing import Tracing


@dataclass(slots=True)
class Probes:
    """What is asked about proc, and of what."""

    settings: ProcSettings
    live: LiveGateway
    database: Database
    connection: Connection
    epoch_watch: EpochWatch
    pool: HostPool
    preparing: Preparing
    worker: Worker
    secrets: Secrets
    tasks: list[asyncio.Task[None]]
    """Work that runs as long as proc does: when one ends, proc is broken."""

    broken: str | None = None
    """Which of them has ended, and why."""

    async def first_broken(self) -> str:
        """Returns when a task that should run for ever has ended: which, and why. ``failing`` says so from then on."""
        done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        self.broken = f"{task.get_name()} ended: {_reason(None if task.cancelled() else task.exception())}"
        return self.broken

    def health(self) -> dict[str, object]:
        service = self.settings.service
        return {
            "status": "ok",
            "service": "proc",
            "instance": service.instance_id,
            "version": __version__,
            **self.live.report("proc"),
            "slots": self.worker.slots,
            "running": self.worker.running,
            "bundles": [
                {
                    "id": bundle.id,
                    "version": bundle.version,
                    "release": bundle.release,
                    "default": bundle.default,
                    "host_pids": list(bundle.host_pids),
                    "unavailable": bundle.unavailable,
                    "problem": bundle.problem,
                    "hosts_lost": bundle.lost.count,
                    "last_lost": bundle.lost.last,
                }
                for bundle in self.pool.status()
            ],
            "preparing": self.preparing.problems,
            "unreadable_secrets": self.secrets.unreadable(),
        }

    async def failing(self) -> str | None:
        """What keeps proc from working: ``draining``, a dependency by name, or ``broken`` with the reason."""
        if self.broken is not None:
            return f"broken: {self.broken}"
        if self.worker.draining:
            return "draining"
        try:
            await self.connection.call("PING")
        except KDCubeError:
            return "valkey"
        try:
            await self.database.ping()
        except KDCubeError:
            return "postgres"
        return "epoch" if self.epoch_watch.known() is None else None


def _reason(error: BaseException | None) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return f"{type(error).__name__}: {error}" if error else "without an error"


def create_app(probes: Probes, operations: OperationRoutes, cors: Cors, traffic: Traffic, tracing: Tracing) -> ASGIApp:
    """Operations of bundles, ``/health`` (alive) and ``/ready`` (503 names what fails)."""

    async def health(_: Request) -> Response:
        return JSONResponse(probes.health())

    async def ready(_: Request) -> Response:
        failing = await probes.failing()
        body = {"ready": failing is None, "failing": failing}
        return JSONResponse(body, status_code=200 if failing is None else 503)

    router = Router(
        [
            route(OPERATION, POST=operations.call),
            route(DOCUMENT, GET=operations.openapi),
            route("/health", GET=health),
            route("/ready", GET=ready),
        ],
        redirect_slashes=False,
        default=no_route,
    )
    return with_cors(Edge(router, traffic=traffic, tracing=tracing), cors)
