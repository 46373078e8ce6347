"""A conversation: messages that are sent, turns that are followed, and what the user does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from kdcube.cli.chat.inputs import Break, End, Inputs, Line
from kdcube.cli.chat.view import View
from kdcube.cli.chat.wording import told
from kdcube.client import Accepted, Client, ClientError, Reading

T = TypeVar("T")


class Leaving(Exception):
    """The user leaves while a turn runs; it goes on without them. ``interrupted``: by Ctrl-C."""

    def __init__(self, *, interrupted: bool) -> None:
        super().__init__()
        self.interrupted = interrupted


@dataclass(frozen=True, slots=True)
class _Bounced:
    """A steer that its turn did not take: it is a turn of its own."""

    turn_id: str
    text: str


class Session:
    """One user at one conversation. ``bundle_id`` and ``conversation_id`` may be set between turns.

    Everything that asks raises ClientError, and Leaving.
    """

    def __init__(self, client: Client, view: View, inputs: Inputs, *, bundle_id: str | None = None) -> None:
        self.client = client
        self.view = view
        self.inputs = inputs
        self.bundle_id = bundle_id
        self.conversation_id: str | None = None
        self.last: tuple[str, str] | None = None
        """The turn that was shown last, and its message."""
        self._running: str | None = None
        self._cancelling = False
        self._asides: list[asyncio.Task[_Bounced | None]] = []
        """What was begun beside the turn: cancelling it, steering it."""

    async def ask(self, text: str) -> Reading:
        """Sends a message and shows its turn to the end, then those that were typed too late to steer it."""
        return await self._turn(text, self._send(text))

    async def ask_again(self) -> Reading | None:
        """The last message, as a sibling of its turn; None when there is none."""
        if self.last is None or self.conversation_id is None:
            return None
        turn_id, text = self.last
        return await self._turn(text, self.client.retry(self.conversation_id, turn_id))

    async def watch(self, turn_id: str, text: str) -> Reading:
        """Shows a turn that is there already."""
        self.view.asked(text)
        reading = await self._attend(self._show(turn_id, text))
        await self._settle_asides()
        return reading

    def start_anew(self) -> None:
        """The next message opens a conversation."""
        self.conversation_id = self.last = None

    async def _send(self, text: str, policy: str | None = None) -> Accepted:
        return await self.client.send(
            text, conversation_id=self.conversation_id, bundle_id=self.bundle_id, policy=policy
        )

    # --- a turn

    async def _turn(self, text: str, sending: Awaitable[Accepted]) -> Reading:
        self.view.asked(text)
        reading = await self._attend(self._send_and_show(text, sending))
        await self._settle_asides()
        return reading

    async def _send_and_show(self, text: str, sending: Awaitable[Accepted]) -> Reading:
        accepted = await sending
        self.conversation_id = accepted.conversation_id
        self.view.accepted(accepted)
        if self._cancelling:
            await self.client.cancel(accepted.task_id)
        return await self._show(accepted.task_id, text)

    async def _show(self, turn_id: str, text: str) -> Reading:
        self._running, self.last = turn_id, (turn_id, text)
        reading = Reading()
        async with aclosing(self.client.follow(turn_id)) as events:
            async for event in events:
                replaced = reading.add(event)
                self.view.event(event, reading, replaced=replaced)
        self.view.ended(reading)
        return reading

    # --- meanwhile

    async def _attend(self, showing: Coroutine[None, None, T]) -> T:
        """Runs it, and does meanwhile what the user wants."""
        self._cancelling, self._running = False, None
        shown = asyncio.create_task(showing)
        try:
            await self._listen(shown)
            return await shown
        except BaseException:
            self.view.ended(None)
            for task in (shown, *self._asides):
                task.cancel()
            await asyncio.gather(shown, *self._asides, return_exceptions=True)
            self._asides.clear()
            raise

    async def _listen(self, shown: asyncio.Task[T]) -> None:
        """Returns when it is shown."""
        while not shown.done():
            waiting = asyncio.create_task(self.inputs.get())
            await asyncio.wait({shown, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return
            match waiting.result():
                case Break() if self._cancelling:
                    raise Leaving(interrupted=True)
                case Break():
                    self._cancelling = True
                    self._asides.append(asyncio.create_task(self._cancel()))
                case End() | Line("/quit"):
                    raise Leaving(interrupted=False)
                case Line(text) if text.startswith("/"):
                    self.view.note("the turn still runs: Ctrl-C cancels it, /quit leaves it")
                case Line(text):
                    self._asides.append(asyncio.create_task(self._steer(text)))

    async def _cancel(self) -> None:
        """At once, or by ``_send_and_show`` as soon as the turn is accepted."""
        self.view.note("cancelling; Ctrl-C again leaves")
        if self._running is not None:
            try:
                await self.client.cancel(self._running)
            except ClientError as error:
                self.view.problem(told(error, self.client))

    async def _steer(self, text: str) -> _Bounced | None:
        """Sends it, tells what becomes of it, and returns it if it became a turn of its own."""
        self.view.note(f"↪ {text}")
        try:
            accepted = await self._send(text, policy="steer")
            turn_id = accepted.task_id
            if accepted.receipt is None:
                return _Bounced(turn_id, text)
            self.view.note(f"↪ {accepted.receipt.state}")
            async with aclosing(self.client.follow(turn_id)) as events:
                async for event in events:
                    if event.name == "chat_start":
                        break
                    if event.ends_turn and (state := event.data["data"]["state"]) in ("applied", "cancelled"):
                        self.view.note(f"↪ {state}")
                        return None
            return _Bounced(turn_id, text)
        except ClientError as error:
            self.view.problem(told(error, self.client))
            return None

    async def _settle_asides(self) -> None:
        """What came too late to steer the turn is shown as the turn that it became."""
        while self._asides:
            bounced = await self._attend(self._outcome(self._asides.pop(0)))
            if bounced is not None:
                await self.watch(bounced.turn_id, bounced.text)

    async def _outcome(self, aside: asyncio.Task[_Bounced | None]) -> _Bounced | None:
        return await aside
