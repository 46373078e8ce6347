"""The operations that run in this process: a drain waits for them, and streams end with what proved their callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.caller import Caller
from kdcube.proc.bundles.calls import RunningCall

INTERRUPT_S = 6.0
"""Within which a call that was told to stop has ended: the grace of its handler, and a little."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class RunningCalls:
    """Those of one proc."""

    def __init__(self) -> None:
        self._calls: set[RunningCall] = set()
        self._streams: dict[RunningCall, Caller] = {}
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def entered(self, call: RunningCall, streams_to: Caller | None) -> Generator[None]:
        """``streams_to``: who reads what it yields; None for one that yields nothing, or is read by nobody known."""
        self._calls.add(call)
        self._none.clear()
        if streams_to is not None:
            self._streams[call] = streams_to
        try:
            yield
        finally:
            self._calls.discard(call)
            self._streams.pop(call, None)
            if not self._calls:
                self._none.set()

    async def drain(self, timeout_s: float) -> None:
        """Lets what runs finish within ``timeout_s``, and stops the rest."""
        for limit_s in (timeout_s, INTERRUPT_S):
            try:
                async with asyncio.timeout(limit_s):
                    await self._none.wait()
                return
            except TimeoutError:
                logger.warning("operations.stopped_by_drain", running=len(self._calls))
                for call in list(self._calls):
                    call.stop("drain")

    # ---- what proved whose they are

    @property
    def logins(self) -> set[bytes]:
        """The logins that have streams here."""
        return {caller.login for caller in self._streams.values() if caller.login is not None}

    @property
    def api_keys(self) -> set[str]:
        """The API keys that have streams here, by id."""
        return {caller.key_id for caller in self._streams.values() if caller.key_id is not None}

    def cut_logins(self, over: Collection[bytes]) -> None:
        """Ends the streams of these logins; nothing more of them is read."""
        self._cut(lambda caller: caller.login in over)

    def cut_keys(self, over: Collection[str]) -> None:
        """As ``cut_logins``, by the ids of API keys."""
        self._cut(lambda caller: caller.key_id in over)

    def _cut(self, is_over: Callable[[Caller], bool]) -> None:
        for call, caller in list(self._streams.items()):
            if is_over(caller):
                call.stop("over")
