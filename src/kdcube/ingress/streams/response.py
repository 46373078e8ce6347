"""One open response: an ASGI coroutine that sends what its source has, whenever it has something.

While a ``send`` waits for a slow reader nothing is buffered here: the source keeps its places and gives, afterwards,
what has come meanwhile, many events in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from kdcube.ingress.streams.projection.sse import KEEP_ALIVE
from kdcube.ingress.streams.settings import Clock, StreamSettings

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_END = {"type": "http.response.body", "body": b"", "more_body": False}


class Source(Protocol):
    """What a response sends."""

    @property
    def ended(self) -> bool:
        """Nothing will follow."""
        ...

    def open(self, wake: Callable[[], None]) -> None:
        """Begins to follow; ``wake`` is called whenever there may be more."""
        ...

    def ready(self) -> bytes | None:
        """What can be sent at once. Empty: nothing now. None: call ``fetch``."""
        ...

    async def fetch(self) -> bytes:
        """What has to be read first. May be empty."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...


class Registry(Protocol):
    """Who counts the open responses."""

    def opened(self, response: EventStream) -> None: ...

    def closed(self, response: EventStream) -> None: ...


class EventStream:
    """An ASGI response of server-sent events, of unknown length."""

    def __init__(
        self,
        source: Source,
        registry: Registry,
        settings: StreamSettings,
        clock: Clock,
        *,
        farewell: Callable[[], bytes],
    ) -> None:
        """``farewell`` gives the last event of a stream that is dismissed; it may be empty."""
        self._source = source
        self._registry = registry
        self._settings = settings
        self._monotonic = clock.monotonic
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self._patience: asyncio.Timeout | None = None
        self._cut = False
        self._sending = False
        self._since = 0.0
        """When the send began that is under way, or else when the last one ended."""
        self._silent = False
        self._farewell = farewell
        self._dismissed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)}
        if scope["method"] == "HEAD":
            await send(start)
            await send(_END)
            return
        self._registry.opened(self)
        watcher = asyncio.create_task(self._watch(receive))
        self._since = self._monotonic()
        try:
            async with asyncio.timeout(None) as self._patience:
                await send(start)
                self._source.open(self.wake)
                await self._pump(send)
                await send(_END)
        except TimeoutError:  # cut() expires the patience
            if not self._cut:
                raise
        finally:
            self._cut = True
            self._source.close()
            self._registry.closed(self)
            watcher.cancel()
            await asyncio.wait({watcher})

    def wake(self) -> None:
        """There may be something to send."""
        self._woken = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def cut(self) -> None:
        """Ends it at once, whatever it waits for."""
        if not self._cut and self._patience is not None:
            self._cut = True
            self._patience.reschedule(asyncio.get_running_loop().time())

    def dismiss(self) -> None:
        """Ends it after what is being sent, with a last event."""
        self._dismissed = True
        self.wake()

    def tick(self, now: float) -> None:
        """Looks at the time: a reader that stalls is cut, a silent stream gets a comment."""
        if self._sending:
            if now - self._since >= self._settings.stall_s:
                self.cut()
        elif now - self._since >= self._settings.keepalive_s:
            self._silent = True
            self.wake()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cut()

    async def _pump(self, send: Send) -> None:
        source, monotonic = self._source, self._monotonic
        create_future = asyncio.get_running_loop().create_future
        while True:
            self._woken = False
            if self._dismissed:
                await send({"type": "http.response.body", "body": self._farewell(), "more_body": True})
                return
            data = source.ready()
            if data is None:
                data = await source.fetch()
                self._woken = True  # whatever came of it, look again
            if not data and self._silent:
                data = KEEP_ALIVE
            if data:
                self._silent = False
                self._since = monotonic()
                self._sending = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
                self._sending = False
                self._since = monotonic()
            elif source.ended:
                return
            elif not self._woken:
                self._waiter = create_future()
                await self._waiter
