"""Queue positions: asked for once per process for all queued turns that any stream shows (rule 26)."""

from __future__ import annotations

from itertools import islice

from kdcube.ingress.streams.hub import LogHub
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.sources import EpochSource, QueuePositions
from kdcube.ingress.streams.tasks import Tasks
from kdcube.protocol.errors import EpochMismatch, StoreUnavailable

_TURNS_AT_ONCE = 500
_TURNS_MAX = 5000


class Positions:
    """Asks at most every ``position_s`` and tells the streams of the turns that moved."""

    def __init__(
        self,
        hub: LogHub,
        queue: QueuePositions,
        epoch: EpochSource,
        settings: StreamSettings,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._hub = hub
        self._queue = queue
        self._epoch = epoch
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._asked_at = float("-inf")
        self._asking = False

    def tick(self) -> None:
        now = self._clock.monotonic()
        if self._asking or now - self._asked_at < self._settings.position_s:
            return
        if next(self._hub.waiting(), None) is not None:
            self._asked_at = now
            self._asking = True
            self._tasks.start(self._ask())

    async def _ask(self) -> None:
        try:
            waiting = islice(tuple(self._hub.waiting()), _TURNS_MAX)
            while some := list(islice(waiting, _TURNS_AT_ONCE)):
                found = await self._queue.positions([log.turn_id for log in some], epoch=self._epoch.current)
                for log, position in zip(some, found, strict=True):
                    if position.position and position != log.position:
                        await self._hub.describe(log)
                        if log.waiting and log.head:  # without its row nobody could tell whose position it is
                            log.position = position
                            log.wake()
        except EpochMismatch:
            self._epoch.suspect()
        except StoreUnavailable:
            pass  # asked again at the next turn
        finally:
            self._asking = False
