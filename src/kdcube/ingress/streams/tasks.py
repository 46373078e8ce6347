"""Tasks that their starter owns: none outlives it, and none fails unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Tasks:
    """Short tasks beside each other."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("streams.task_failed", exc_info=error)

    async def cancel(self) -> None:
        """Ends all of them and waits until they have ended."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def settle(self) -> None:
        """Waits until none runs (for tests)."""
        while self._running:
            await asyncio.wait(tuple(self._running))
