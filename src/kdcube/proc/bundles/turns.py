"""A turn in a bundle host: its credit, its steers, how it is stopped and how it ends (rules 9 and 23)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kdcube.proc.bundles.jobs import Cancelled, Completed, Failed, HostLost, LostReason, Outcome, Steer, TurnSink
from kdcube.sdk import wire

if TYPE_CHECKING:  # each is nothing without the other
    from kdcube.proc.bundles.host import BundleHost


class RunningTurn:
    """A turn in a host. Settled once ``outcome`` is done; over once ``exited`` is."""

    def __init__(self, number: int, host: BundleHost, sink: TurnSink, now: float) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.bundle_version = host.version
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        """Done when no code of this turn can run any more: with ``outcome``, or when the host has exited."""
        self.sink = sink
        self.started_at = now
        self.heard_at = now
        self.unacknowledged = 0
        self._to_acknowledge = 0
        self._host = host
        self._cancelling: LostReason | None = None
        self._grace: asyncio.TimerHandle | None = None

    @property
    def settled(self) -> bool:
        return self.outcome.done()

    def credit(self, n_bytes: int) -> None:
        """So many bytes of the turn's text (``Delta.n_bytes``) are in the log."""
        self.unacknowledged -= n_bytes
        self.heard_at = self._host.clock()
        self._to_acknowledge += n_bytes
        if self._to_acknowledge >= wire.CREDIT_STEP_BYTES:
            self._host.send(wire.Credit(self.number, self._to_acknowledge))
            self._to_acknowledge = 0

    def steer(self, steer: Steer) -> None:
        """Puts a message into the turn's inbox. Steers that were never applied belong to the caller at the end."""
        self._host.send(wire.Steer(self.number, steer.steer_id, steer.text, steer.payload))

    def cancel(self, reason: str) -> None:
        """Asks the handler to stop. ``outcome`` follows within the grace of rule 9, whatever the handler does."""
        self.stop(reason, "unresponsive_cancel")

    def stop(self, reason: str, lost: LostReason) -> None:
        """Cancels; ``lost`` is the outcome when the handler does not answer, or when a limit is what stops it."""
        if self.settled or self._cancelling is not None:
            return
        self._cancelling = lost
        self._host.send(wire.Cancel(self.number, reason))
        self._grace = asyncio.get_running_loop().call_later(self._host.limits.cancel_grace_s, self._unresponsive)

    def abandon(self) -> None:
        """The turn's lease is lost: it stops now, or its host is killed with all that it runs. Another worker may go on
        with the conversation soon, and two at once would be worse than what this interrupts.
        """
        self.stop("lease", "lease_lost")
        asyncio.get_running_loop().call_later(self._host.limits.abandon_grace_s, self._evict)

    def _evict(self) -> None:
        if not self.exited.done():
            self._host.condemn("lease_lost")

    def _unresponsive(self) -> None:
        assert self._cancelling is not None
        self.settle(HostLost(self._cancelling))
        self._host.retire(f"turn does not stop ({self._cancelling})")

    def end(self, ended: wire.Ended, detail: str) -> None:
        """The handler has ended. ``detail`` is what of the traceback may be logged."""
        untaken = tuple(ended.untaken_steers)
        if self._cancelling in ("idle_limit", "wall_limit"):
            self.settle(HostLost(self._cancelling))
        elif ended.how == "completed":
            self.settle(Completed(ended.state, untaken))
        elif ended.how == "cancelled":
            self.settle(Cancelled())
        else:
            self.settle(Failed(ended.code, ended.message, ended.retryable, detail, untaken))
        self.leave()

    def settle(self, outcome: Outcome) -> None:
        """Says how the turn ended; the first outcome stands."""
        if self._grace is not None:
            self._grace.cancel()
        if not self.settled:
            self.outcome.set_result(outcome)

    def leave(self) -> None:
        """No code of the turn runs any more."""
        if not self.exited.done():
            self.exited.set_result(None)
