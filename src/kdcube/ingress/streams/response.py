"""One open response: it writes what its source has, whenever it has something.

It is no task: whoever has news wakes it, and those that were woken in one tick of the loop run one after the other.
While a slow reader takes nothing, nothing is buffered here: the source keeps its places and gives, afterwards, what
has come meanwhile, many events in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog
from starlette.types import Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.caller import Caller
from kdcube.ingress.streams.figures import EndReason, StreamFigures, StreamKind
from kdcube.ingress.streams.outlets import AsgiOutlet, ConnectionOutlet, Outlet, hand_over_of
from kdcube.ingress.streams.projection.sse import KEEP_ALIVE
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.tasks import Tasks

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Source(Protocol):
    """What a response sends."""

    @property
    def ended(self) -> bool:
        """Nothing will follow."""
        ...

    @property
    def more(self) -> bool:
        """After ``ready`` gave something: there may be more at once."""
        ...

    def open(self, wake: Callable[[], None]) -> None:
        """Begins to follow; ``wake`` is called whenever there may be more than there is now."""
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
    """Who keeps the open responses."""

    def opened(self, response: EventStream) -> None: ...

    def closed(self, response: EventStream) -> None: ...

    def woken(self, response: EventStream) -> None:
        """Calls its ``run`` soon, once."""
        ...


class EventStream:
    """An ASGI response of server-sent events, of unknown length."""

    __slots__ = (
        "_clock", "_closed", "_dismissed", "_end", "_farewell", "_fetching", "_figures", "_finished", "_hands_over",
        "_kind", "_outlet", "_registry", "_resumed", "_settings", "_silent", "_since", "_source", "_tasks", "_woken",
        "opened_by", "was_cut",
    )  # fmt: skip

    def __init__(
        self,
        source: Source,
        registry: Registry,
        settings: StreamSettings,
        clock: Clock,
        tasks: Tasks,
        figures: StreamFigures,
        *,
        kind: StreamKind,
        resumed: bool,
        farewell: Callable[[], bytes],
        opened_by: Caller | None = None,
        hands_over: bool = True,
    ) -> None:
        """``farewell`` gives the last event of a stream that is dismissed; it may be empty.

        ``opened_by``: with whose login or API key it ends. ``hands_over``: where the server can, the stream goes on
        without its request, which returns at once.
        """
        self.opened_by = opened_by
        self.was_cut = False
        """It was ended before its time, and the client was not told why."""
        self._source = source
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._figures = figures
        self._kind = kind
        self._resumed = resumed
        self._end = EndReason.LEFT
        """Why it ends, as far as is known."""
        self._farewell = farewell
        self._hands_over = hands_over
        self._outlet: Outlet | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._woken = False
        self._dismissed = False
        self._finished = False
        """The outlet has everything."""
        self._closed = False
        self._silent = False
        self._since = 0.0
        """When it wrote last, or the outlet took more again."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hand_over = hand_over_of(scope) if self._hands_over else None
        headers = [*_HEADERS, (b"connection", b"close")] if hand_over else [*_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif hand_over is None:
            request = AsgiOutlet()
            try:
                self._open(request)
                await request.serve(self, receive, send)
            finally:
                self.gone()
        else:
            connection = ConnectionOutlet(self)
            if hand_over(connection):
                self._open(connection)

    def _open(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._since = self._clock.monotonic()
        self._figures.opened(self._kind, resumed=self._resumed)
        self._registry.opened(self)
        self._source.open(self.wake)
        self.wake()  # it may follow what is known here already

    # --- what makes it run

    def wake(self) -> None:
        """There may be something to send."""
        if not self._woken:
            self._woken = True
            self._registry.woken(self)

    def resume(self) -> None:
        """The outlet takes more again."""
        self._since = self._clock.monotonic()
        self.wake()

    def dismiss(self) -> None:
        """Ends it after what is being sent, with a last event."""
        self._dismissed = True
        self.wake()

    def tick(self, now: float) -> None:
        """Looks at the time: a reader that stalls is cut, a silent stream gets a comment."""
        assert self._outlet is not None
        if self._outlet.paused or self._finished:
            if now - self._since >= self._settings.stall_s:
                self._end = EndReason.STALLED
                self.cut()
        elif now - self._since >= self._settings.keepalive_s:
            self._silent = True
            self.wake()

    # --- what ends it

    def cut(self) -> None:
        """Ends it at once, whatever it waits for."""
        self.was_cut = True
        if self._end is EndReason.LEFT:
            self._end = EndReason.DRAINED if self._dismissed else EndReason.CUT
        if self._outlet is not None:
            self._outlet.abort()
        self.gone()

    def gone(self) -> None:
        """The client has left, or has everything: lets go of everything."""
        if not self._closed:
            self._closed = True
            if self._fetching is not None:
                self._fetching.cancel()
            self._source.close()
            self._registry.closed(self)
            self._figures.ended(self._end)

    def _fail(self, error: Exception) -> None:
        assert self._outlet is not None
        self._outlet.abort(error)
        self._end = EndReason.FAILED
        self.gone()

    # --- writing

    def run(self) -> None:
        """Writes what there is, as far as it is taken."""
        self._woken = False
        try:
            self._run()
        except Exception as error:
            logger.exception("streams.stream_failed")
            self._fail(error)

    def _run(self) -> None:
        source, outlet = self._source, self._outlet
        assert outlet is not None
        while not (outlet.paused or self._finished or self._closed or self._fetching):
            if self._dismissed:
                if farewell := self._farewell():
                    outlet.write(farewell)
                self._finish(outlet)
                return
            data = source.ready()
            if data:
                self._write(outlet, data)
                if not (source.more or source.ended):
                    return
            elif data is None:
                self._fetching = self._tasks.start(self._fetch(outlet))
            elif source.ended:
                self._finish(outlet)
            elif self._silent:
                self._write(outlet, KEEP_ALIVE)
            else:
                return

    def _write(self, outlet: Outlet, data: bytes) -> None:
        self._silent = False
        self._since = self._clock.monotonic()
        self._figures.bytes.add(len(data))
        outlet.write(data)

    def _finish(self, outlet: Outlet) -> None:
        self._finished = True
        self._end = EndReason.DRAINED if self._dismissed else EndReason.COMPLETED
        outlet.finish()

    async def _fetch(self, outlet: Outlet) -> None:
        try:
            data = await self._source.fetch()
            if data:
                self._write(outlet, data)
        except Exception as error:
            logger.exception("streams.stream_failed")
            self._fail(error)
        finally:
            self._fetching = None
        self.run()
