"""``/monitoring/system``: how the whole installation stands. Each part is told as far as its store can be reached."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kdcube.gateway.answers import json_response
from kdcube.gateway.identity.callers import Callers
from kdcube.gateway.limits import Limiter
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.monitoring import counts, fresh, gauge_sum, instances, latencies
from kdcube.postgres.turns import Turns
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.queue_facts import read_queue_facts
from kdcube.redis.sources import Sources
from kdcube.redis.standing import standing_of

Json = dict[str, Any]


class MonitoringRoutes:
    """For administrators."""

    def __init__(
        self,
        callers: Callers,
        live: LiveGateway,
        limiter: Limiter,
        turns: Turns,
        sources: Sources,
        connection: Connection,
        keys: Keys,
    ) -> None:
        self._callers = callers
        self._live = live
        self._limiter = limiter
        self._turns = turns
        self._sources = sources
        self._connection = connection
        self._keys = keys

    async def system(self, request: Request) -> Response:
        await self._callers.administrator(request)
        body: Json = {
            "at_ms": int(time.time() * 1000),
            "config": self._live.report("ingress"),
            **await _part("processes", self._processes),
            **await _part("pressure", self._pressure),
            **await _part("queue", self._queue),
        }
        return json_response(body)

    async def instances(self) -> list[Json] | None:
        """What each process says of itself; None while Valkey is away."""
        try:
            return instances(await self._sources.read())
        except KDCubeError:
            return None

    async def _processes(self) -> Json:
        sources = await self._sources.read()
        reports = fresh(sources)
        return {
            "instances": instances(sources),
            "streams": {"open": gauge_sum(reports, "streams_open"), "cap": gauge_sum(reports, "streams_cap")},
            "latency": latencies(reports, "http_request_seconds"),
            "turns": {
                "wait": latencies(reports, "turn_wait_seconds"),
                "run": latencies(reports, "turn_run_seconds"),
            },
            "refused": counts(reports, "requests_refused"),
        }

    async def _pressure(self) -> Json:
        limits = self._limiter.admission
        facts = await read_queue_facts(self._connection, self._keys, heartbeat_ttl_s=limits.heartbeat_ttl_s)
        standing = standing_of(facts, limits)
        return {
            "pressure": {
                "live_slots": facts.live_slots,
                "present": facts.present,
                "running": facts.running,
                "capacity": standing.capacity,
                "share": round(standing.pressure, 4),
                "admitted_to": standing.admitted_to,
                "max_queue_size": limits.max_queue_size,
                "competing": facts.competing,
                "memory_share": facts.memory_share,
                "mean_turn_s": facts.mean_turn_s,
            }
        }

    async def _queue(self) -> Json:
        return {"queue": await self._turns.waiting_by_type()}


async def _part(name: str, read: Callable[[], Awaitable[Json]]) -> Json:
    try:
        return await read()
    except KDCubeError as error:
        return {name: {"unavailable": type(error).__name__}}
