"""The queue of a partition: claims under leases and fences, starts, ends, cancels."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from kdcube.protocol.cursors import Position
from kdcube.protocol.events import decode_body
from kdcube.protocol.turns import ENVELOPE_VERSION, TurnEnvelope, TurnState, UserType, decode_envelope
from kdcube.redis.admission import state_of
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_CLAIM = Script("claim")
_RELEASE = Script("release")
_START = Script("start")
_FINISH = Script("finish")
_EXITED = Script("exited")
_CANCEL = Script("cancel")
_EXPIRED = Script("expired")
_POSITIONS = Script("positions")

LEASE_S = 15.0
"""A worker that does not renew for so long has lost its turns (rule 8)."""
LOG_TTL_S = 15 * 60
"""A log lives so long after its turn's end, much shorter when memory is scarce; then readers get the stored turn."""
DONE_TTL_S = 24 * 3600
"""Valkey answers a repeated send for so long, much shorter when memory is scarce; PostgreSQL for ever."""


@dataclass(frozen=True, slots=True)
class ClassShare:
    """A class's weight against the others and the share (0 to 1] of all slots that it may use at once."""

    weight: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be above 0 and finite, not {self.weight}: else a class is never served")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share}: it is a part of all slots")


DEFAULT_SHARES: Mapping[UserType, ClassShare] = {
    UserType.PRIVILEGED: ClassShare(8),
    UserType.PAID: ClassShare(4),
    UserType.REGISTERED: ClassShare(2),
    UserType.ANONYMOUS: ClassShare(1),
    UserType.EXTERNAL: ClassShare(1),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn under a fence, ``claim_id``, and a lease that runs since the claim."""

    envelope: TurnEnvelope
    claim_id: str
    order: int
    accepted_ms: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker's revision must not claim any more (a deployment replaces it)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The turn's log is open: its incarnation, its tail after the start event, and whether a cancel waits."""

    incarnation: int
    tail: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Fenced:
    """The claim is not the current one: the caller must not go on with the turn."""


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """A turn whose worker did not renew. ``state``: claimed, running, or cancelled (its host had not exited)."""

    turn_id: str
    claim_id: str
    state: TurnState


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """``state`` None: not in the working state. ``position`` 1 is next, 0 is not waiting."""

    state: TurnState | None
    position: int
    eta_s: float


class Queue:
    """The queue of one partition."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        shares: Mapping[UserType, ClassShare] = DEFAULT_SHARES,
        running_per_user: int = 8,
        lease_s: float = LEASE_S,
        heartbeat_ttl_s: float = 15.0,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._state = keys.state()
        self._shares = shares
        self.running_per_user = running_per_user
        self.lease_s = lease_s
        self._heartbeat_ttl_ms = int(heartbeat_ttl_s * 1000)

    async def claim(
        self, *, epoch: int, worker_id: str, revision: str, room: Mapping[str, int], claim_ids: Sequence[str]
    ) -> list[Claim] | Stopped:
        """Claims up to ``len(claim_ids)`` turns of bundles with ``room``.

        A repeat with the same claim ids returns what they claimed the first time: a lost reply loses no turn.
        """
        classes = [part for name, share in self._shares.items() for part in (name, share.weight, share.share)]
        bundles = [part for bundle, free in room.items() for part in (bundle, free)]
        reply = await _CLAIM(
            self._connection,
            [*self._state, self._keys.stops],
            [
                epoch,
                worker_id,
                revision,
                int(self.lease_s * 1000),
                ENVELOPE_VERSION,
                self._heartbeat_ttl_ms,
                len(self._shares),
                len(room),
                len(claim_ids),
                *classes,
                *bundles,
                *claim_ids,
            ],
        )
        if reply == b"stopped":
            return Stopped()
        return [
            Claim(decode_envelope(envelope), claim_id.decode(), order, accepted)
            for _, claim_id, envelope, order, accepted in reply
        ]

    async def waiting(self) -> int:
        """Turns that compete for a worker."""
        return await self._connection.call("ZCARD", self._keys.queue)

    async def holds(self, turn_id: str, claim_id: str) -> bool:
        """Whether the turn is under this claim. A claim that is not the current one never becomes it again."""
        return await self._connection.call("HGET", self._keys.claims, claim_id) == turn_id.encode()

    async def release(self, turn_id: str, claim_id: str, *, epoch: int, only_expired: bool = False) -> bool:
        """Hands a turn back to its place; False when it is not under that claim.

        ``only_expired``: only when the lease has run out and the turn has not started, as Valkey sees both.
        """
        args = [epoch, turn_id, claim_id, int(only_expired), self.running_per_user]
        return await _RELEASE(self._connection, self._state, args) == 1

    async def start(
        self, envelope: TurnEnvelope, claim_id: str, *, epoch: int, attempt: int, head: bytes, line: bytes
    ) -> Opened | Fenced:
        """Opens the log after START. ``head``: JSON members, ``line``: the start event (protocol.events)."""
        keys = self._keys
        event = msgspec.json.encode(
            {
                "type": "turn.started",
                "turn_id": envelope.turn_id,
                "client_turn_id": envelope.client_turn_id,
                "conversation_id": envelope.conversation_id,
                "attempt": attempt,
            }
        )
        reply = await _START(
            self._connection,
            [
                *self._state,
                keys.log(envelope.turn_id),
                keys.log_meta(envelope.turn_id),
                keys.feed(envelope.user_id),
                keys.live(envelope.user_id),
            ],
            [epoch, envelope.turn_id, claim_id, keys.channel_prefix, head, line, secrets.token_hex(4), event],
        )
        if reply[0] == b"fenced":
            return Fenced()
        return Opened(reply[1], reply[2], bool(reply[3]))

    async def finish(
        self,
        envelope: TurnEnvelope,
        claim_id: str | None,
        *,
        epoch: int,
        state: TurnState,
        line: bytes,
        discarded: Sequence[str] = (),
        lingers: bool = False,
        said: Position | None = None,
    ) -> bool:
        """Closes the log with its terminal ``line`` and moves everything on, after PostgreSQL committed the end.

        ``claim_id`` None: whoever holds the turn, because PostgreSQL is terminal. ``discarded``: steers that ended with
        it; every other steer becomes a turn. ``lingers``: the conversation stays busy until ``exited``. ``said``:
        where the log must end to say what PostgreSQL has; one that ends elsewhere goes away, the stored turn says all.
        Without it, only a turn that never started gets a log that says nothing but its end.
        False when the claim is not the current one; True also when the turn is gone already.
        """
        keys = self._keys
        event = msgspec.json.encode(
            {
                "type": "turn.ended",
                "turn_id": envelope.turn_id,
                "client_turn_id": envelope.client_turn_id,
                "conversation_id": envelope.conversation_id,
                "state": state,
            }
        )
        reply = await _FINISH(
            self._connection,
            [
                *self._state,
                keys.log(envelope.turn_id),
                keys.log_meta(envelope.turn_id),
                keys.feed(envelope.user_id),
                keys.live(envelope.user_id),
                keys.done(envelope.turn_id),
                *(keys.done(steer) for steer in discarded),
            ],
            [
                epoch,
                envelope.turn_id,
                claim_id or "*",
                keys.channel_prefix,
                envelope.user_id,
                line,
                state,
                secrets.token_hex(4),
                event,
                self.running_per_user,
                LOG_TTL_S * 1000,
                DONE_TTL_S * 1000,
                int(lingers),
                f"{said.incarnation} {said.offset}" if said else "any" if _had_log(line) else "",
                *discarded,
            ],
        )
        return reply[0] != b"fenced"

    async def exited(self, turn_id: str, claim_id: str, *, epoch: int) -> bool:
        """The host of a turn that ended with ``lingers`` has exited: its conversation goes on."""
        return await _EXITED(self._connection, self._state, [epoch, turn_id, claim_id, self.running_per_user]) == 1

    async def cancel(self, turn_id: str, *, epoch: int) -> bool:
        """Tells the turn's worker of a cancel that PostgreSQL has; False when no worker has the turn."""
        keys = self._keys
        return await _CANCEL(self._connection, [keys.epoch, keys.turns], [epoch, turn_id, keys.channel_prefix]) == 1

    async def expired(self, *, epoch: int, limit: int = 100) -> list[ExpiredLease]:
        """Turns whose lease has run out, by Valkey's clock."""
        keys = self._keys
        reply = await _EXPIRED(self._connection, [keys.epoch, keys.turns, keys.leases], [epoch, limit])
        return [
            ExpiredLease(turn.decode(), claim.decode(), state_of(state.decode())) for turn, claim, state, *_ in reply
        ]

    async def positions(self, turn_ids: Sequence[str], *, epoch: int) -> list[QueuePosition]:
        """Where each of ``turn_ids`` stands."""
        reply = await _POSITIONS(self._connection, self._state, [epoch, self._heartbeat_ttl_ms, *turn_ids])
        return [
            QueuePosition(state_of(state.decode()) if state else None, position, eta / 1000)
            for state, position, eta in reply
        ]


def _had_log(line: bytes) -> bool:
    """Whether a turn with this terminal line had started."""
    return decode_body(line).get("attempt", 0) > 0
