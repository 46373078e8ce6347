"""Whether this process lives, whether it should be sent requests, and what it offers."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.answers import json_response
from kdcube.gateway.exchange import request_id_of
from kdcube.gateway.live import LiveGateway
from kdcube.ingress.openapi import openapi_document
from kdcube.protocol.errors import KDCubeError

CHECK_TIMEOUT_S = 2.0

Check = Callable[[], Awaitable[object]]
"""Raises KDCubeError when its dependency fails."""


class ServiceRoutes:
    """``/health``, ``/ready`` and ``/openapi.json``."""

    def __init__(
        self,
        *,
        instance: str,
        live: LiveGateway,
        checks: Mapping[str, Check],
        bundle_ids: Sequence[str],
    ) -> None:
        self._about = {
            "service": "ingress",
            "instance": instance,
            "version": importlib.metadata.version("kdcube"),
        }
        self._live = live
        self._checks = checks
        self._bundle_ids = bundle_ids
        self._document: bytes | None = None
        self.draining = False
        live.subscribe(self._reconfigured)

    def _reconfigured(self, gateway: GatewayConfig) -> None:
        self._document = None

    def _told(self) -> dict[str, object]:
        return {**self._about, **self._live.report("ingress")}

    async def health(self, request: Request) -> Response:
        return json_response({"status": "alive", **self._told()})

    async def ready(self, request: Request) -> Response:
        results = await asyncio.gather(*(_outcome(check) for check in self._checks.values()))
        checks = dict(zip(self._checks, results, strict=True))
        failing = [name for name, outcome in checks.items() if outcome != "ok"]
        if not failing and not self.draining:
            return json_response({"status": "ready", "checks": checks, **self._told()})
        body: dict[str, Any] = {
            "status": "draining" if self.draining else "not_ready",
            "error": "draining" if self.draining else "not_ready",
            "message": "This process is being stopped." if self.draining else f"Failing: {', '.join(failing)}.",
            "failing": failing,
            "checks": checks,
            "retry_after_s": 1,
            "request_id": request_id_of(request),
            **self._told(),
        }
        answer = json_response(body, 503)
        answer.headers["Retry-After"] = "1"
        return answer

    async def openapi(self, request: Request) -> Response:
        if self._document is None:
            limits = self._live.current.limits.ingress
            self._document = msgspec.json.encode(openapi_document(self._about["version"], limits, self._bundle_ids))
        return Response(self._document, media_type="application/json")


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except KDCubeError as error:
        return type(error).__name__ if not str(error) else str(error)
    return "ok"
