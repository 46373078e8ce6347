"""One turn in a host: the handler's task between the wire and the bundle's Turn. `kdcube.sdk.testing` runs this too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from kdcube.sdk.bundle import Bundle
from kdcube.sdk.context import BundleError
from kdcube.sdk.explaining import explain
from kdcube.sdk.inbox import Inbox, Message
from kdcube.sdk.outlet import Outlet
from kdcube.sdk.turn import Turn, json_value
from kdcube.sdk.wire import (
    MAX_STATE_BYTES,
    Applied,
    Apply,
    Cancel,
    Credit,
    Ended,
    StartTurn,
    Steer,
)


class TurnRun:
    """Runs the message handler for one StartTurn. The last thing it sends is Ended."""

    def __init__(self, bundle: Bundle, start: StartTurn, send: Callable[[Any], None]) -> None:
        self._number = start.turn
        self._send = send
        self._outlet = Outlet(start.turn, send)
        self._inbox = Inbox(lambda request, ids: send(Apply(start.turn, request, ids)))
        self._state_before = msgspec.msgpack.encode(start.state)
        self._turn = Turn(start, self._outlet, self._inbox)
        self._ended: Ended | None = None
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._handle(bundle), name=f"turn {start.turn_id}")
        self.task.add_done_callback(self._finish)

    def receive(self, message: Credit | Steer | Applied | Cancel) -> None:
        """What proc says about this turn."""
        if isinstance(message, Credit):
            self._outlet.credit(message.n_bytes)
        elif isinstance(message, Steer):
            self._inbox.put(Message(message.steer_id, message.text, message.payload))
        elif isinstance(message, Applied):
            self._inbox.answered(message.request, message.steer_ids)
        elif not self._turn.cancelled:
            self._turn.cancelled.set(message.reason)
            self._outlet.release()
            self._loop.call_soon(self.task.cancel)  # one tick later: those who wait for the flag act first

    async def _handle(self, bundle: Bundle) -> None:
        turn = self._turn
        try:
            if bundle.message_handler is None:
                raise BundleError("no_message_handler", "This assistant takes no messages.")
            returned: Any = await bundle.message_handler(turn)
            if isinstance(returned, str):  # as a delta, so that those who watch see it as well
                if not self._outlet.answered:
                    await turn.delta(returned)
            elif returned is not None:
                raise TypeError(f"the handler returned a {type(returned).__name__}: it must return None or a str")
            if not isinstance(turn.state, dict):
                raise TypeError("turn.state must stay a dict")
            state = json_value("turn.state", turn.state, MAX_STATE_BYTES)
            self._inbox.close()
            untaken = await self._inbox.untaken()
            unchanged = msgspec.msgpack.encode(state) == self._state_before
            self._ended = Ended(self._number, "completed", None if unchanged else state, untaken_steers=untaken)
        except asyncio.CancelledError:
            # Cancelled by proc, or the handler let a CancelledError of its own escape.
            if not turn.cancelled:
                await self._fail(*explain(RuntimeError("the handler was cancelled by its own code")))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a bundle raises ends its own turn, reported
            await self._fail(*explain(error))

    async def _fail(self, error: BundleError, detail: str) -> None:
        self._inbox.close()
        untaken = [] if self._turn.cancelled else await self._inbox.untaken()
        self._ended = Ended(
            self._number, "failed", None, error.code, error.user_message, error.retryable, detail, untaken
        )

    def _finish(self, _task: asyncio.Task[None]) -> None:
        self._inbox.close()
        self._outlet.close()
        ended = self._ended
        if ended is None or self._turn.cancelled:  # a cancel that was received is answered as such, however it ended
            ended = Ended(self._number, "cancelled", detail=ended.detail if ended else "")
        self._send(ended)
