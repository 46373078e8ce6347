"""Whether a process lives and whether it should be sent requests, as services that serve people tell it."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.answers import json_response
from kdcube.gateway.exchange import request_id_of
from kdcube.protocol.errors import KDCubeError, StoreUnavailable

CHECK_TIMEOUT_S = 2.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)

Check = Callable[[], Awaitable[object]]
"""Raises KDCubeError when its dependency fails."""


class Probes:
    """``/health`` and ``/ready``. ``report`` tells what the process runs, such as the checksum of its configuration."""

    def __init__(
        self, *, service: str, instance: str, report: Callable[[], Mapping[str, object]], checks: Mapping[str, Check]
    ) -> None:
        self._about = {"service": service, "instance": instance, "version": importlib.metadata.version("kdcube")}
        self._report = report
        self._checks = checks
        self._away: set[str] = set()
        """What is known to be away: said once in the log."""
        self.draining = False

    async def health(self, request: Request) -> Response:
        return json_response({"status": "alive", **self._told()})

    async def ready(self, request: Request) -> Response:
        results = await asyncio.gather(*(self._outcome(name, check) for name, check in self._checks.items()))
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

    def _told(self) -> dict[str, object]:
        return {**self._about, **self._report()}

    async def _outcome(self, name: str, check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await check()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except StoreUnavailable as error:  # whose words may name hosts and ports: anybody may ask
            if name not in self._away:
                self._away.add(name)
                logger.warning("probes.store_away", check=name, reason=str(error))
            return "it does not answer"
        except KDCubeError as error:
            return type(error).__name__ if not str(error) else str(error)
        self._away.discard(name)
        return "ok"
