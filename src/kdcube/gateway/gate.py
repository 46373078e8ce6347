"""A gate for work that this process does itself: so much at once, shared fairly, and a bounded queue before it."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from kdcube.gateway.errors import Unavailable

WAIT_S = 5.0


class Gate:
    """``limit`` pieces of work at once; it may be changed at any time, and what is inside stays inside.

    As many may wait as may be inside, each for ``wait_s`` at most. Of the users that wait the next is the one with the
    least inside, so nobody waits for all the work of another. When the room is full, who has the most waiting gives
    way to who has less.
    """

    def __init__(self, limit: int, *, wait_s: float = WAIT_S, error: str = "too_many_operations") -> None:
        self._limit = limit
        self._wait_s = wait_s
        self._error = error
        self._inside: Counter[str] = Counter()
        self._total = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def inside(self) -> int:
        return self._total

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._let_in()

    @asynccontextmanager
    async def entered(self, user_id: str) -> AsyncGenerator[None]:
        """Inside. Raises Unavailable when there is no room to wait, or none has become free in time."""
        if self._total < self._limit and not self._waiting:
            self._enter(user_id)
        else:
            await self._wait(user_id)
        try:
            yield
        finally:
            self._total -= 1
            self._inside[user_id] -= 1
            if not self._inside[user_id]:
                del self._inside[user_id]
            self._let_in()

    def _enter(self, user_id: str) -> None:
        self._total += 1
        self._inside[user_id] += 1

    async def _wait(self, user_id: str) -> None:
        self._make_room(user_id)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            self._leave(user_id, turn)
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def _leave(self, user_id: str, turn: asyncio.Future[None]) -> None:
        """Who waited goes: out of the queue, or from the place that was just given."""
        queue = self._waiting.get(user_id)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[user_id]
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            self._total -= 1
            self._inside[user_id] -= 1
            self._let_in()

    def _make_room(self, user_id: str) -> None:
        if self.waiting < self._limit:
            return
        greediest = max(self._waiting, key=lambda user: len(self._waiting[user]), default=user_id)
        if len(self._waiting.get(greediest, ())) <= len(self._waiting.get(user_id, ())) + 1:
            raise self._refusal()
        queue = self._waiting[greediest]
        queue.pop().set_exception(self._refusal())

    def _let_in(self) -> None:
        while self._waiting and self._total < self._limit:
            user_id = min(self._waiting, key=lambda user: self._inside[user])
            queue = self._waiting[user_id]
            turn = queue.popleft()
            if queue:
                self._waiting.move_to_end(user_id)
            else:
                del self._waiting[user_id]
            if not turn.done():
                self._enter(user_id)
                turn.set_result(None)

    def _refusal(self) -> Unavailable:
        return Unavailable("Too much is under way here.", retry_after_s=1.0, error=self._error)
