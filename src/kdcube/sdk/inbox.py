"""The messages that a user sends while the turn runs (steers)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """What the user said in mid-turn."""

    id: str
    text: str
    payload: dict[str, Any] = field(default_factory=dict[str, Any])


class Inbox:
    """Messages for the running turn. One that is never taken becomes the conversation's next turn.

    Taking a message is a promise that it is acted on: it is committed as *applied* before the bundle gets it. A take
    that is cancelled loses nothing: the next one gets the message.

        async for message in turn.inbox: ...       # waits for each; ends with the turn
        message = await turn.inbox.get()           # waits for one
        message = await turn.inbox.poll()          # takes one that is there, or None
    """

    def __init__(self, ask: Callable[[int, list[str]], None]) -> None:
        """``ask(request, ids)`` asks proc to commit; ``answered`` brings the reply."""
        self._ask = ask
        self._waiting: deque[Message] = deque()
        self._asked: tuple[int, Message] | None = None
        self._ready: deque[Message] = deque()
        self._requests = 0
        self._closed = False
        self._changed: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Messages that wait to be taken."""
        return len(self._waiting) + len(self._ready) + (self._asked is not None)

    async def get(self) -> Message:
        """Waits for a message and takes it. It is cancelled when the turn ends."""
        while True:
            message = await self.poll()
            if message is not None:
                return message
            if self._closed:
                raise asyncio.CancelledError("the turn has ended")
            await self._change()

    async def poll(self) -> Message | None:
        """Takes a message that is there already; None when there is none."""
        while not self._closed:
            if self._ready:
                return self._ready.popleft()
            if self._asked is None:
                if not self._waiting:
                    return None
                self._requests += 1
                message = self._waiting.popleft()
                self._asked = self._requests, message
                self._ask(self._requests, [message.id])
            await self._change()
        return None

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Message:
        while True:
            message = await self.poll()
            if message is not None:
                return message
            if self._closed:
                raise StopAsyncIteration
            await self._change()

    # ---- the side of the wire

    def put(self, message: Message) -> None:
        """A message has come."""
        self._waiting.append(message)
        self._wake()

    def answered(self, request: int, applied: list[str]) -> None:
        """Proc's reply: the message is ours if it is among ``applied``; else it went elsewhere."""
        if self._asked is None or self._asked[0] != request:
            return
        message = self._asked[1]
        self._asked = None
        if message.id in applied:
            self._ready.append(message)
        self._wake()

    def close(self) -> None:
        """Nothing is taken any more."""
        self._closed = True
        self._wake()

    async def untaken(self) -> list[str]:
        """After ``close``: the ids of what was applied but never taken. Waits for a reply that is under way."""
        while self._asked is not None:
            await self._change()
        return [message.id for message in self._ready]

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)  # several may wait on it; one that is cancelled must not cancel it

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None
