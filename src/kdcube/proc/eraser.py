"""The eraser: works off what is marked for erasing, by a user's wish or by age. A chore of maintenance.

A conversation is erased when nothing of it is under way any more: its turns have ended in PostgreSQL, the working state
has none of them, and no code of them runs. Valkey first, PostgreSQL last: a crash in between leaves the mark. What a
worker that slept still believes to have is kept out by PostgreSQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from kdcube.postgres.erasing import Erasing, Marked
from kdcube.postgres.turns import Turns
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.turns import TERMINAL, TurnEnvelope, TurnState
from kdcube.redis.queue import Queue
from kdcube.redis.remains import Remains
from kdcube.telemetry.failpoints import hit

log = structlog.get_logger()

_PAGE = 50
_PAGES = 10
"""A round erases at most so many pages: maintenance has more to do."""
_AGED_BATCH = 200
_AGED_BATCHES = 20
AGE_EVERY_S = 600.0
KEPT_OUT_DAYS = 30
_DAY_MS = 86_400_000
_WAITING = frozenset("qphs")
_ENDED = TERMINAL | {TurnState.APPLIED}


class Eraser:
    """``retention_days``: conversations without activity for so long are erased; 0 keeps them."""

    def __init__(
        self,
        *,
        erasing: Erasing,
        turns: Turns,
        queue: Queue,
        remains: Remains,
        retention_days: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._erasing = erasing
        self._turns = turns
        self._queue = queue
        self._remains = remains
        self.retention_days = retention_days
        self._clock = clock
        self._wall_clock = wall_clock
        self._after = ""
        self._next_aged = 0.0

    async def round(self, epoch: int) -> None:
        """Erases what can be erased now."""
        if self._clock() >= self._next_aged:
            self._next_aged = self._clock() + AGE_EVERY_S
            await self._mark_aged()
        erased = 0
        for _ in range(_PAGES):
            page = await self._erasing.marked(self._after, _PAGE)
            for conversation in page:
                erased += await self._erase(conversation, epoch)
            self._after = page[-1].conversation_id if len(page) == _PAGE else ""
            if not self._after:
                break
        if erased:
            log.info("conversations erased", count=erased)
        for erasure in await self._erasing.emptied():
            await self._remains.forget_feed(erasure.user_id)
            await hit("proc.erase.before_close")
            await self._erasing.close(erasure.erasure_id)
            log.info("erasure done", erasure_id=erasure.erasure_id)

    async def _mark_aged(self) -> None:
        now_ms = int(self._wall_clock() * 1000)
        await self._erasing.forget_before(now_ms - KEPT_OUT_DAYS * _DAY_MS)
        if not self.retention_days:
            return
        before_ms, count = now_ms - self.retention_days * _DAY_MS, 0
        for _ in range(_AGED_BATCHES):
            marked = await self._erasing.mark_aged(before_ms, _AGED_BATCH)
            count += marked
            if marked < _AGED_BATCH:
                break
        if count:
            log.info("conversations have become old", count=count, days=self.retention_days)

    async def _erase(self, conversation: Marked, epoch: int) -> bool:
        """False when something of it is still under way; it is looked at again."""
        conversation_id = conversation.conversation_id
        turns = await self._erasing.turns(conversation_id)
        if conversation.lingers or any(state not in _ENDED for state in turns.values()):
            return False  # a worker ends it, or the reaper; its cancel is committed
        if not await self._left_valkey(list(turns), conversation_id, epoch):
            return False
        until_ms = await self._remains.now_ms()
        await self._remains.forget_turns(list(turns))
        await hit("proc.erase.before_commit")
        return await self._erasing.erase(conversation_id, until_ms)

    async def _left_valkey(self, turn_ids: list[str], conversation_id: str, epoch: int) -> bool:
        """Whether the working state has nothing of a conversation; ends what only waits there."""
        here = await self._remains.states(turn_ids)
        active = await self._remains.active_turn(conversation_id)
        if active is not None and active not in here:  # its admission was refused, and whoever asked for it died
            here |= await self._remains.states([active])
        for turn_id, state in here.items():
            if state in _WAITING:  # whoever committed its cancel has not told
                envelope = await self._turns.envelope(turn_id) or await self._remains.envelope(turn_id)
                if envelope is not None:
                    await self._end(envelope, epoch)
        return not here and active is None

    async def _end(self, envelope: TurnEnvelope, epoch: int) -> None:
        line = terminal_line(TurnState.CANCELLED, ts_ms=int(self._wall_clock() * 1000), attempt=0)
        await self._queue.finish(envelope, None, epoch=epoch, state=TurnState.CANCELLED, line=line)
