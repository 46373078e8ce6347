"""ECS task scale-in protection (rule 12): held while turns run, acknowledged before the first claim."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger()

RENEW_BEFORE_S = 300.0
_TIMEOUT_S = 5.0
_RETRY_S = 2.0


class Protection(Protocol):
    """``acquire`` returns once the task is protected; ``release`` lets it be stopped."""

    @property
    def held(self) -> bool: ...
    async def acquire(self) -> None: ...
    async def release(self) -> None: ...


class NoProtection:
    """Outside ECS there is nothing to ask."""

    held = True

    async def acquire(self) -> None:
        return

    async def release(self) -> None:
        return


class EcsProtection:
    """``PUT {agent_uri}/task-protection/v1/state``. The protection expires by itself after ``minutes`` (1 to 2880)."""

    def __init__(self, agent_uri: str, *, minutes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = f"{agent_uri}/task-protection/v1/state"
        self._minutes = minutes
        self._clock = clock
        self._until = 0.0

    @property
    def held(self) -> bool:
        return self._until > 0

    async def acquire(self) -> None:
        """Asks until the agent acknowledges: no protection, no claims."""
        while self._clock() > self._until - min(RENEW_BEFORE_S, self._minutes * 30):
            if await self._put({"ProtectionEnabled": True, "ExpiresInMinutes": self._minutes}):
                self._until = self._clock() + self._minutes * 60
            else:
                await asyncio.sleep(_RETRY_S)

    async def release(self) -> None:
        if self._until and await self._put({"ProtectionEnabled": False}):
            self._until = 0.0

    async def _put(self, body: dict[str, object]) -> bool:
        return await asyncio.to_thread(self._put_blocking, json.dumps(body).encode())

    def _put_blocking(self, body: bytes) -> bool:
        request = urllib.request.Request(  # noqa: S310 - the agent's address comes from the task's environment
            self._url, data=body, method="PUT", headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
                answer = json.load(response)
        except (OSError, ValueError) as error:
            log.warning("task protection was not acknowledged", error=str(error))
            return False
        return "failure" not in answer
