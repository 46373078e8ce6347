"""A user of a system in which things die: everything that is sent and seen goes into a history, which must be sound."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tests.chaos.history import History, Send
from tests.e2e.client import Client, Event, is_mark, state
from tests.e2e.conftest import Stack

from kdcube.protocol.ids import new_id

PATIENCE_S = 90.0
"""More than a lease and the pause of the reaper behind it, on a machine that has other things to do."""
_AGAIN_S = 0.1


class Scene:
    """``at``, everywhere, is the ingress process that is asked first."""

    def __init__(self, stack: Stack, client: Client, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self.stack = stack
        self.client = client
        self.history = History()
        self._patience_s = patience_s
        self.record = folder / f"ran-{new_id()}"
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._killed_at: float | None = None

    # --- what the user does

    async def send(self, text: str, conversation: str, *, at: int = 0, **message: Any) -> Send:
        """One message under one key, again and again until it is clear what became of it."""
        message["trial"] = {"record": str(self.record), **message.get("trial", {})}
        key = f"{text}-{new_id()}".replace(" ", "-")
        send = Send(key, conversation, text)
        self.history.sends.append(send)
        async with asyncio.timeout(self._patience_s):
            while True:
                try:
                    response = await self.client.send(text, at=at, key=key, conversation_id=conversation, **message)
                    self.history.outcome(send, response)
                    if response.status_code != 503:
                        return send
                except httpx.TransportError:
                    send.refused = None  # nobody knows
                at += 1
                await asyncio.sleep(_AGAIN_S)

    async def sent(self, text: str, conversation: str, **message: Any) -> str:
        """``send``, accepted: the internal id."""
        send = await self.send(text, conversation, **message)
        assert send.task_id is not None, f"refused: {send.refused}"
        return send.task_id

    async def cancel(self, turn: str, *, at: int = 0) -> None:
        """Again and again until it is heard."""
        async with asyncio.timeout(self._patience_s):
            while True:
                try:
                    response = await self.client.ask("POST", "/sse/cancel", at=at, json={"turn_id": turn})
                    if response.status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                at += 1
                await asyncio.sleep(_AGAIN_S)

    async def watch(self, *, at: int = 0) -> None:
        """Reads the user's stream from now on, wherever it leads."""
        seen = self.history.view("user")
        await self.client.follow("/sse/stream", seen, lambda event: event.name == "ready", at=at)
        reading = self.client.follow("/sse/stream", seen, is_mark, at=at, patience_s=self._patience_s)
        self._watching = asyncio.create_task(reading)

    async def follow(
        self, turn: str, *, at: int = 0, deltas: int = 0, cut: Callable[[Event], bool] = lambda _: False
    ) -> None:
        """Reads a turn's stream, wherever it leads, to its end; returns when it has brought so many deltas."""
        seen, enough = self.history.view(f"turn {turn} from {at}"), asyncio.Event()

        def look(event: Event) -> bool:
            if deltas <= sum(one.name == "chat_delta" for one in seen):
                enough.set()
            return event.ends_turn

        reading = self.client.follow(f"/turns/{turn}/stream", seen, look, at=at, cut=cut, patience_s=self._patience_s)
        self._tasks[f"{turn} {at}"] = asyncio.create_task(reading)
        if deltas:
            async with asyncio.timeout(self._patience_s):
                await enough.wait()

    async def read(self, turn: str, *, at: int = 0) -> None:
        """Wait until what ``follow`` has begun has brought the turn's end."""
        await self._tasks[f"{turn} {at}"]

    @property
    def unfinished(self) -> list[asyncio.Task[None]]:
        """The streams of turns that are still read."""
        return [task for task in self._tasks.values() if not task.done()]

    # --- what happens to the system

    async def kill(self, *instances: str) -> None:
        """kill -9 of all of them, before any is waited for."""
        self._killed_at = time.monotonic()
        pids = {instance: self.stack.signal(instance, signal.SIGKILL) for instance in instances}
        for instance, pid in pids.items():
            await asyncio.to_thread(self.stack.wait_gone, instance, pid)

    async def healed(self) -> None:
        """Wait until all services are back."""
        await asyncio.to_thread(self.stack.wait_back)

    # --- what must hold

    async def settled(self) -> dict[str, dict[str, Any]]:
        """Wait until all that was accepted has ended, and prove the history; the stored turns."""
        await self.collected()
        self.history.check()
        return self.history.stored

    async def collected(self) -> None:
        """Wait until all that was accepted has ended, and complete the history."""
        sends = [send for send in self.history.sends if send.task_id]
        for number, send in enumerate(sends):
            if not any(name.startswith(str(send.task_id)) for name in self._tasks):
                await self.follow(str(send.task_id), at=number)
        await asyncio.gather(*self._tasks.values())
        if self._killed_at is not None:
            print(f"all turns had ended {time.monotonic() - self._killed_at:.1f} s after the last kill")
        conversations = sorted({send.conversation_id for send in sends})
        await self.healed()
        if self._watching is not None:
            await self.client.mark(conversations[0])
            await self._watching
        await self.history.collect(self.client, conversations, self.record)

    def seen(self, turn: str, at: int = 0) -> list[Event]:
        """What ``follow`` saw."""
        return self.history.view(f"turn {turn} from {at}")

    def end(self, turn: str) -> str:
        return state(next(events for name, events in self.history.views.items() if name.startswith(f"turn {turn}")))

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
