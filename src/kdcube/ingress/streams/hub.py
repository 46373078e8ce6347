"""The hub: one reader per turn log in this process, for all streams that show it.

It hears the log's channel and takes a published change when it continues what is known; whatever does not (a gap, a
change without lines, another life, a new subscription) makes it read the log. Silent logs are looked at every few
seconds, so that a lost last message hangs nobody (rule 22). What Valkey no longer has is told from PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.ingress.streams.figures import StreamFigures
from kdcube.ingress.streams.lines import ENDED, snapshot_line, stored_head, stored_lines
from kdcube.ingress.streams.settings import Clock, StreamSettings
from kdcube.ingress.streams.sources import Channels, LogReader, StoredTurns
from kdcube.ingress.streams.tasks import Tasks
from kdcube.ingress.streams.turnlog import Folded, Follower, Life, TurnLog
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.events import Fold
from kdcube.redis.eventlog import LogPage, decode_change, next_line
from kdcube.redis.keys import Keys

_HEAL_AT_ONCE = 64
"""Logs in doubt that are read together; if Valkey serves none of them, the rest wait for the next tick."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class LogHub:
    """The logs that streams of this process follow."""

    def __init__(
        self,
        logs: LogReader,
        channels: Channels,
        turns: StoredTurns,
        keys: Keys,
        settings: StreamSettings,
        clock: Clock,
        tasks: Tasks,
        figures: StreamFigures,
    ) -> None:
        self.figures = figures
        self._reader = logs
        self._channels = channels
        self._turns = turns
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._now = clock.monotonic()
        self._logs: dict[str, TurnLog] = {}
        self._listeners: dict[str, partial[None]] = {}
        self._doubted: dict[TurnLog, None] = {}
        """Logs that could not be read; tried again at every tick."""
        self._healing = False

    def __len__(self) -> int:
        return len(self._logs)

    # --- following

    def follow(
        self, turn_id: str, follower: Follower, *, after: int = 0, waits_in: Callable[[str], int | None] | None = None
    ) -> TurnLog:
        """The log of a turn; ``follower`` is woken whenever it has more. ``after`` is where it is likely to start.

        ``waits_in`` says of a turn that has surely not started the epoch in which it waits.
        """
        log = self._logs.get(turn_id)
        if log is None:
            log = self._logs[turn_id] = TurnLog(turn_id, self._settings.recent_bytes, hint=after)
            log.heard_at = self._now
            log.waits_in = waits_in
            listener = self._listeners[turn_id] = partial(self._hear, log)
            self._channels.subscribe(self._keys.log_channel(turn_id), listener)
        log.followers[follower] = None
        return log

    def unfollow(self, log: TurnLog, follower: Follower) -> None:
        """``follower`` is not woken any more; a log that nobody follows is forgotten."""
        log.followers.pop(follower, None)
        if not log.followers and self._logs.get(log.turn_id) is log:
            del self._logs[log.turn_id]
            self._doubted.pop(log, None)
            self._channels.unsubscribe(self._keys.log_channel(log.turn_id), self._listeners.pop(log.turn_id))

    def waiting(self) -> Iterator[TurnLog]:
        """The logs of turns that are in the queue."""
        return (log for log in self._logs.values() if log.waiting)

    def tick(self) -> None:
        """Looks at what has been silent too long, and again at what could not be read."""
        self._now = self._clock.monotonic()
        silent_since = self._now - self._settings.check_s
        for log in self._logs.values():
            if log.heard_at <= silent_since and not log.closed:
                self.look(log)
        if self._doubted and not self._healing:
            self._healing = True
            self._tasks.start(self._heal())

    # --- hearing

    def _hear(self, log: TurnLog, payload: bytes | None) -> None:
        if payload is None:
            epoch = log.waits_in and log.waits_in(log.turn_id)
            log.waits_in = None
            if epoch and not log.looking:  # the feed, on the same socket, tells of a start: all of the log is to come
                self._wait(log, epoch)
                log.wake()
            else:
                self.look(log)
            return
        if log.closed:
            return
        if not log.synced:
            self.look(log)
            return
        life = log.life
        line = next_line(payload, life.epoch, life.incarnation, log.tail)
        if line is not None and log.head:
            log.append((line,))
            log.heard_at = self._now
            log.wake()
            return
        change = decode_change(payload)
        told, lines = (change.epoch, change.incarnation), change.lines
        same = told == life.order
        if told < life.order or (same and change.offset <= log.tail):
            return  # late, or known already
        continues = change.previous == log.tail if same else change.previous == 0 and change.epoch == life.epoch
        if not continues or lines is None or len(lines) != change.offset - change.previous:
            self.look(log)
            return
        if change.head is None and not log.head:  # it ended without having started: the row knows whose it is
            self.look(log)
            return
        if not same:
            log.begin(Life(change.epoch, change.incarnation))
        if change.head is not None:
            log.head = change.head
        log.append(lines)
        log.closed = change.closed
        log.heard_at = self._now
        log.wake()

    # --- reading

    def look(self, log: TurnLog) -> None:
        """Reads the log, soon; once more if it is being read already."""
        if log.looking:
            log.look_again = True
        else:
            log.looking = True
            self._tasks.start(self._look(log))

    async def _look(self, log: TurnLog) -> None:
        try:
            more = True
            while log.followers and (more or log.look_again):
                log.look_again = False
                more = await self._read(log)
                if more:
                    log.wake()
        except KDCubeError as error:
            logger.debug("streams.log_unreadable", turn_id=log.turn_id, reason=str(error))
            self.doubt(log)
        finally:
            log.looking = False
            if log.look_again and log.followers:
                log.look_again = False
                self.look(log)
            else:
                log.looks += 1
            log.wake()

    def doubt(self, log: TurnLog) -> None:
        """What is known of the log may be wrong: nothing is taken from it until it was read, at the next tick."""
        log.synced = False
        if log.followers:
            self._doubted[log] = None

    async def _read(self, log: TurnLog) -> bool:
        """Reads a page behind the tail. True when the log has to be read on."""
        life, tail = log.life, log.tail
        page = await self._reader.read(log.turn_id, tail)
        log.heard_at = self._now
        if page.epoch is None:
            self.doubt(log)
            return False
        self._doubted.pop(log, None)
        if page.exists and page.closed and not page.head and not log.head:
            await self._describe(log)
        if not page.closed and not page.known and await self._restore_stored(log, page.epoch):
            return False
        if page.exists:
            return self._take(log, page, life, tail)
        if page.known:
            self._wait(log, page.epoch)
        else:
            log.synced = False  # accepted, but not in the working state (yet): seen again when it has been silent long
        return False

    def _wait(self, log: TurnLog, epoch: int) -> None:
        """The turn is in the queue and has no log yet."""
        if log.life.order != (epoch, 0):
            log.begin(Life(epoch, 0))
        log.waiting = log.synced = True

    def _take(self, log: TurnLog, page: LogPage, life: Life, tail: int) -> bool:
        """Joins a page that was asked for when the log stood at ``tail`` of ``life``. True: read on."""
        assert page.epoch is not None
        if log.life is not life:
            return True  # a change was heard meanwhile, the page may be older than it
        if life.order == (page.epoch, page.incarnation):
            if page.tail < tail:
                if log.tail != tail:
                    return True
                log.begin(Life(page.epoch, page.incarnation), after=page.tail)  # rolled back
            elif page.offset > log.tail:
                log.append(page.lines[log.tail - tail :])
        elif tail <= page.tail == page.offset:
            log.begin(Life(page.epoch, page.incarnation), after=tail, lines=page.lines)
        else:
            log.begin(Life(page.epoch, page.incarnation), after=page.tail)
        if page.head:
            log.head = page.head
        log.waiting = False
        log.synced = True
        log.closed = log.closed or (page.closed and log.tail == page.tail)
        return log.tail < page.tail

    async def _restore_stored(self, log: TurnLog, epoch: int) -> bool:
        """Valkey does not know the turn: if PostgreSQL knows its end, that is what there is to tell."""
        turn = await self._turns.get(log.turn_id)
        if turn is None or turn.state not in ENDED:
            return False
        log.head = stored_head(turn, tenant=self._keys.tenant, project=self._keys.project)
        log.begin(Life(epoch, 0, stored=True), lines=stored_lines(turn, now_ms=self._clock.now_ms()))
        log.synced = log.closed = True
        return True

    async def _describe(self, log: TurnLog) -> None:
        turn = await self._turns.get(log.turn_id)
        if turn is not None and not log.head:
            log.head = stored_head(turn, tenant=self._keys.tenant, project=self._keys.project)

    async def describe(self, log: TurnLog) -> None:
        """Gives the log of a turn that has not started a head. Does nothing while PostgreSQL is away."""
        if not log.head:
            with suppress(KDCubeError):
                await self._describe(log)

    async def _heal(self) -> None:
        try:
            doubted = [log for log in self._doubted if not log.looking]
            for start in range(0, len(doubted), _HEAL_AT_ONCE):
                some = doubted[start : start + _HEAL_AT_ONCE]
                for log in some:
                    log.looking = True
                await asyncio.gather(*(self._look(log) for log in some))
                if all(log in self._doubted for log in some):
                    break
        finally:
            self._healing = False

    # --- for streams that are behind

    async def page(self, log: TurnLog, after: int) -> list[bytes] | None:
        """Lines of the log's life behind ``after``, never beyond its tail; None: it must be looked at first."""
        life = log.life
        try:
            page = await self._reader.read(log.turn_id, after)
        except KDCubeError as error:
            logger.debug("streams.log_unreadable", turn_id=log.turn_id, reason=str(error))
            self.doubt(log)
            return None
        if log.life is not life:
            return None
        if (page.epoch, page.incarnation) != life.order:
            log.synced = False
            self.look(log)
            return None
        lines = page.lines[: log.tail - after]
        if not lines:
            self.doubt(log)
            return None
        if page.tail > log.tail:
            self.look(log)
        return lines

    async def snapshot(self, log: TurnLog) -> Folded | None:
        """All that the log says before its terminal event, folded; shared by those who need it. None: look first."""
        async with log.folding:
            folded = log.folded
            if folded is not None and folded.life is log.life and folded.offset >= log.remembers_after:
                return folded
            life, until = log.life, log.tail - log.closed
            fold = Fold(log.turn_id)
            fold.incarnation = life.incarnation
            while fold.offset < until:
                lines = await self.page(log, fold.offset)
                if lines is None or log.life is not life:
                    return None
                fold.add_all(lines[: until - fold.offset])
            await self.describe(log)
            if log.life is not life:
                return None
            line = snapshot_line(fold.snapshot(), now_ms=self._clock.now_ms())
            log.folded = folded = Folded(life, until, line)
            return folded
