"""A conversation: messages that are sent, turns that are followed, and what the user does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

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


@dataclass(slots=True)
class _Steer:
    """A message for the running turn. ``receipt`` is the last one that was shown; ``settled``: it needs no answer."""

    text: str
    sending: asyncio.Task[Accepted]
    receipt: str | None = None
    settled: bool = False


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
        self.later: list[str] = []
        """Commands that were typed while a turn ran."""
        self._running: str | None = None
        self._accepted = asyncio.Event()
        self._cancelling = False
        self._steers: list[_Steer] = []
        self._asides: set[asyncio.Task[None]] = set()
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
        self._accepted.set()
        reading = await self._attend(self._show(turn_id, text))
        await self._settle_steers()
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
        self._accepted.clear()
        reading = await self._attend(self._send_and_show(text, sending))
        await self._settle_steers()
        return reading

    async def _send_and_show(self, text: str, sending: Awaitable[Accepted]) -> Reading:
        accepted = await sending
        self.conversation_id = accepted.conversation_id
        self._accepted.set()
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
            await _stop([shown, *self._asides, *(steer.sending for steer in self._steers)])
            self._steers.clear()
            self.view.ended(None)
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
                    self._aside(self._cancel())
                case End() | Line("/quit"):
                    raise Leaving(interrupted=False)
                case Line(text) if text.startswith("/"):
                    self.view.note(f"{text}: when the turn has ended")
                    self.later.append(text)
                case Line(text):
                    self.view.note(f"↪ {text}")
                    steer = _Steer(text, asyncio.create_task(self._send_steer(text)))
                    self._steers.append(steer)
                    self._aside(self._tell(steer))

    async def _cancel(self) -> None:
        """At once, or by ``_send_and_show`` as soon as the turn is accepted."""
        self.view.note("cancelling; Ctrl-C again leaves")
        if self._running is not None:
            try:
                await self.client.cancel(self._running)
            except ClientError as error:
                self.view.problem(told(error, self.client))

    async def _send_steer(self, text: str) -> Accepted:
        await self._accepted.wait()  # before that there is nothing to steer
        return await self._send(text, policy="steer")

    async def _tell(self, steer: _Steer) -> None:
        """What becomes of it, until it is settled or begins as a turn of its own."""
        try:
            accepted = await asyncio.shield(steer.sending)
            if accepted.receipt is None:  # nothing ran any more, so it is a turn like others
                return
            self._receipt(steer, accepted.receipt.state)
            async with aclosing(self.client.follow(accepted.task_id)) as events:
                async for event in events:
                    if event.name == "chat_start":
                        return
                    if event.ends_turn and (state := event.data["data"]["state"]) in ("applied", "cancelled"):
                        steer.settled = True
                        self._receipt(steer, state)
        except ClientError as error:
            steer.settled = True
            self.view.problem(told(error, self.client))

    def _receipt(self, steer: _Steer, state: str) -> None:
        if state != steer.receipt:
            steer.receipt = state
            self.view.note("  accepted" if state == "accepted" else f"  {state}: {steer.text}")

    async def _settle_steers(self) -> None:
        """Shows what came too late to steer the turn as the turn that it became."""
        await _stop(self._asides)
        while self._steers:
            steer = self._steers.pop(0)
            if not steer.settled:
                await self._attend(self._tell(steer))  # anew: a stream says at once what has been decided
            if not steer.settled:
                self._receipt(steer, "bounced")
                await self.watch(steer.sending.result().task_id, steer.text)

    def _aside(self, doing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(doing)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)


async def _stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    stopped = list(tasks)
    for task in stopped:
        task.cancel()
    await asyncio.gather(*stopped, return_exceptions=True)
