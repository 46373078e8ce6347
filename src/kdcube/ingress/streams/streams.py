"""All streams of one ingress process: opened for requests, ticked together, dismissed at a drain."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

import structlog
from starlette.requests import Request
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import NotFound, Unavailable
from kdcube.ingress.streams.completion_stream import CompletionStream
from kdcube.ingress.streams.feed import FeedHub
from kdcube.ingress.streams.figures import StreamFigures, StreamKind
from kdcube.ingress.streams.hub import LogHub
from kdcube.ingress.streams.opening import once_rebuilt, open_at
from kdcube.ingress.streams.positions import Positions
from kdcube.ingress.streams.projection import sse
from kdcube.ingress.streams.projection.openai import Completion, LogLines
from kdcube.ingress.streams.response import EventStream, Source
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.sources import Channels, EpochSource, FeedReader, LogReader, QueuePositions, StoredTurns
from kdcube.ingress.streams.tasks import Tasks
from kdcube.ingress.streams.track import Place
from kdcube.ingress.streams.turn_stream import TurnStream, no_id, turn_place
from kdcube.ingress.streams.user_stream import UserStream
from kdcube.protocol.ids import check_client_id, new_id
from kdcube.redis.keys import Keys
from kdcube.telemetry.instruments import Instruments

_FULL_RETRY_S = 5.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Streams:
    """The streams of one process. An async context manager; leaving it shuts down."""

    def __init__(
        self,
        *,
        logs: LogReader,
        feeds: FeedReader,
        queue: QueuePositions,
        subscriber: Channels,
        epoch_watch: EpochSource,
        turns: StoredTurns,
        keys: Keys,
        instruments: Instruments | None = None,
        settings: StreamSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings = settings or StreamSettings()
        self.max_streams = settings.max_streams
        """May be changed: what is open stays open."""
        self._clock = clock = clock or Clock()
        self._feeds = feeds
        self._turns = turns
        self._keys = keys
        self._epochs = epoch_watch
        self._tasks = Tasks()
        instruments = instruments or Instruments()
        instruments.gauge("streams_open", lambda: self.count)
        instruments.gauge("streams_cap", lambda: self.max_streams)
        self._figures = StreamFigures(instruments)
        self._hub = LogHub(logs, subscriber, turns, keys, settings, clock, self._tasks, self._figures)
        self._feed_hub = FeedHub(feeds, subscriber, keys, settings, clock, self._tasks)
        self._positions = Positions(self._hub, queue, epoch_watch, settings, clock, self._tasks)
        self._projection = sse.KDCubeSse()
        self._lines = LogLines()
        self._open: set[EventStream] = set()
        self._woken: list[EventStream] = []
        self._opening = 0
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick_for_ever(), name="streams-tick")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait({self._ticker})
        await self._tasks.cancel()

    @property
    def count(self) -> int:
        """Open streams."""
        return len(self._open)

    # --- requests

    async def user_stream(self, request: Request, caller: Caller) -> EventStream:
        """The response to ``GET /sse/stream``: query ``stream_id``, ``conversation_id``, ``cursor``.

        Raises InvalidInput for a malformed or foreign cursor, Unavailable when full or draining, ClientDisconnect when
        the client leaves before it begins, and what the stores raise.
        """
        self.check_room()
        query = request.query_params
        stream_id = check_client_id("stream_id", query.get("stream_id") or new_id())
        conversation_id = query.get("conversation_id") or None
        cursor = _cursor(request)
        self._opening += 1
        try:
            opening = await once_rebuilt(
                lambda: open_at(self._feeds, self._turns, caller, cursor, conversation_id),
                self._epochs,
                request.receive,
                self._settings.opening_wait_s,
            )
        finally:
            self._opening -= 1
        return self._respond(
            UserStream(
                self._hub,
                self._feed_hub,
                caller,
                stream_id,
                opening,
                conversation_id=conversation_id,
                keys=self._keys,
                projection=self._projection,
                settings=self._settings,
                clock=self._clock,
            ),
            caller,
            StreamKind.USER,
            resumed=cursor is not None,
        )

    async def turn_stream(self, request: Request, caller: Caller, turn_id: str) -> EventStream:
        """The response to ``GET /turns/{id}/stream``, by internal or client id: query ``cursor`` or ``offset``.

        Raises NotFound when the turn is not the caller's, and what ``user_stream`` raises.
        """
        self.check_room()
        turn = await self._turns.find(caller.user_id, turn_id)
        if turn is None and caller.anonymous_user_id is not None:
            turn = await self._turns.find(caller.anonymous_user_id, turn_id)
        if turn is None:
            raise NotFound("There is no such turn.")
        cursor, offset = _cursor(request), request.query_params.get("offset")
        place = turn_place(turn.turn_id, cursor, offset)
        return self._respond(
            TurnStream(
                self._hub,
                turn.turn_id,
                place,
                projection=self._projection,
                settings=self._settings,
                clock=self._clock,
            ),
            caller,
            StreamKind.TURN,
            resumed=cursor is not None or offset is not None,
        )

    def completion_stream(self, turn_id: str, completion: Completion, caller: Caller) -> EventStream:
        """The answer of a turn that is the caller's, after ``check_room``. It fills ``completion``."""
        turn = TurnStream(
            self._hub,
            turn_id,
            Place(),
            projection=self._lines,
            ids=no_id,
            settings=self._settings,
            clock=self._clock,
        )
        # What is to be done when the client leaves is up to the request, so that it keeps the connection.
        answer = CompletionStream(turn, completion)
        return self._respond(answer, caller, StreamKind.COMPLETION, farewell=completion.leave, hands_over=False)

    def check_room(self) -> None:
        """Raises Unavailable when no stream may be opened."""
        if self._draining:
            raise Unavailable("This process is being replaced; connect again.", retry_after_s=1.0, error="draining")
        if len(self._open) + self._opening >= self.max_streams:
            raise Unavailable(
                "This process has as many streams as it may.", retry_after_s=_FULL_RETRY_S, error="too_many_streams"
            )

    def _respond(
        self,
        source: Source,
        caller: Caller,
        kind: StreamKind,
        *,
        resumed: bool = False,
        farewell: Callable[[], bytes] | None = None,
        hands_over: bool = True,
    ) -> EventStream:
        return EventStream(
            source,
            self,
            self._settings,
            self._clock,
            self._tasks,
            self._figures,
            kind=kind,
            resumed=resumed,
            farewell=farewell or self._farewell,
            opened_by=caller,
            hands_over=hands_over,
        )

    # --- open responses

    def opened(self, response: EventStream) -> None:
        self._open.add(response)
        self._none_open.clear()
        if self._draining:  # it was being opened when the drain began
            response.dismiss()

    def closed(self, response: EventStream) -> None:
        self._open.discard(response)
        if not self._open:
            self._none_open.set()

    def woken(self, response: EventStream) -> None:
        if not self._woken:
            asyncio.get_running_loop().call_soon(self._run_woken)
        self._woken.append(response)

    def _run_woken(self) -> None:
        woken, self._woken = self._woken, []
        for response in woken:
            response.run()

    @property
    def logins(self) -> set[bytes]:
        """The logins that have streams here."""
        return {caller.login for caller in self._callers() if caller.login is not None}

    @property
    def api_keys(self) -> set[str]:
        """The API keys that have streams here, by id."""
        return {caller.key_id for caller in self._callers() if caller.key_id is not None}

    def cut_logins(self, over: Collection[bytes]) -> None:
        """Ends the streams of these logins at once: whoever comes back is told why."""
        self._cut(lambda caller: caller.login in over)

    def cut_keys(self, over: Collection[str]) -> None:
        """As ``cut_logins``, by the ids of API keys."""
        self._cut(lambda caller: caller.key_id in over)

    def _callers(self) -> list[Caller]:
        return [response.opened_by for response in self._open if response.opened_by is not None]

    def _cut(self, is_over: Callable[[Caller], bool]) -> None:
        for response in tuple(self._open):
            if response.opened_by is not None and is_over(response.opened_by):
                response.cut()

    async def shutdown(self) -> None:
        """Tells every client to come back elsewhere, at moments that spread, and closes. No stream opens any more."""
        self._draining = True
        for response in tuple(self._open):
            response.dismiss()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._none_open.wait()
        except TimeoutError:
            for response in tuple(self._open):
                response.cut()
            await self._none_open.wait()

    def _farewell(self) -> bytes:
        settings = self._settings
        retry_ms = random.randint(settings.reconnect_min_ms, settings.reconnect_max_ms)  # noqa: S311 (jitter)
        return sse.event("server_shutdown", {"reason": "draining", "retry_ms": retry_ms}, retry_ms=retry_ms)

    # --- time

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            try:
                self.tick()
            except Exception:
                logger.exception("streams.tick_failed")  # what heals streams must not end

    def tick(self) -> None:
        """Looks at everything that takes a time."""
        now = self._clock.monotonic()
        self._hub.tick()
        self._feed_hub.tick()
        self._positions.tick()
        for response in tuple(self._open):
            response.tick(now)


def _cursor(request: Request) -> str | None:
    """The header beats the query (rule 19); an empty one is none."""
    return request.headers.get("last-event-id") or request.query_params.get("cursor") or None
