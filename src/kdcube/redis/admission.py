"""Admission: from a message to a place in the queue, in one round trip."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from kdcube.protocol.turns import TurnEnvelope, TurnState, UserType, encode_envelope
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.rates import UNLIMITED, Left, RateLimit, Sender, left_of, rate_arguments, rate_keys
from kdcube.redis.scripts import Script

_ADMIT = Script("admit")
_WITHDRAW = Script("withdraw")

ANYWHERE = Sender()

_STATES = {
    "q": TurnState.QUEUED,
    "p": TurnState.QUEUED,
    "h": TurnState.QUEUED,
    "c": TurnState.CLAIMED,
    "r": TurnState.RUNNING,
    "e": TurnState.CANCELLED,
    "s": TurnState.STEERING,
}


def state_of(letter: str) -> TurnState:
    """The state that a record's letter, or the word of a turn that has ended, stands for."""
    return _STATES[letter] if letter in _STATES else TurnState(letter)


@dataclass(frozen=True, slots=True)
class ClassLimits(RateLimit):
    """Limits of one user type. ``pressure_threshold`` is the share of the capacity that it may fill, above 0."""

    pressure_threshold: float = 1.0


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What admission enforces. Capacity = live slots x (1 - capacity_buffer) x queue_depth_multiplier.

    A class may fill its share of it, and one turn at least, with turns that wait or run, of whatever class.
    """

    classes: Mapping[UserType, ClassLimits]
    hard_limit_threshold: float
    capacity_buffer: float
    queue_depth_multiplier: float
    max_queue_size: int
    heartbeat_ttl_s: float = 15.0
    running_per_user: int = 8
    live_per_user: int = 100
    """Turns of one user that wait or run, steers included."""
    memory_threshold: float = 0.9
    """Share of Valkey's maxmemory above which nothing is admitted."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The turn waits. ``interrupts`` is the active turn that it asks to cancel, if any."""

    order: int
    accepted_ms: int
    position: int
    eta_s: float
    interrupts: str | None
    left: Left = ()
    """What is left of the rates now; so in all outcomes."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The message is a steer of ``steers``, a claimed or running turn."""

    order: int
    accepted_ms: int
    steers: str
    left: Left = ()


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same message was admitted before. ``envelope`` is None once the turn has ended."""

    state: TurnState
    order: int
    accepted_ms: int
    conversation_id: str
    envelope: bytes | None
    steers: str | None
    interrupts: str | None
    """As of Admitted: whoever admitted it may not have lived to cancel that turn."""
    left: Left = ()


@dataclass(frozen=True, slots=True)
class Unproven:
    """Valkey was rebuilt within the last day and has forgotten what had ended: nothing was changed.

    To be admitted as ``proven`` when PostgreSQL has no turn of this id that has ended.
    """

    left: Left = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused; nothing was changed.

    ``reason``: idempotency_conflict, conversation_not_found, conversation_busy, rate_limit_burst, rate_limit_hourly,
    user_queue_full, no_capacity, memory, queue_full, backpressure.
    """

    reason: str
    retry_after_s: float
    """After that it would be admitted, if nothing else happened and turns took as long as they lately did."""
    left: Left = ()


class Admission:
    """Admits messages into one partition. ``limits`` may be replaced at any time."""

    def __init__(self, connection: Connection, keys: Keys, limits: AdmissionLimits) -> None:
        self._connection = connection
        self._keys = keys
        self._state = keys.state()
        self.limits = limits

    async def admit(
        self, envelope: TurnEnvelope, *, epoch: int, nonce: str, sender: Sender = ANYWHERE, proven: bool = False
    ) -> Admitted | Delivered | Duplicate | Unproven | Rejected:
        """Admits ``envelope``. ``nonce`` is random for each request: a repeat with the same one returns its outcome.

        Whatever ``sender`` says of rates, pressure counts. Raises StoreUnavailable when the outcome is unknown and
        EpochMismatch while Valkey is being rebuilt.
        """
        keys, limits = self._keys, self.limits
        of_class = limits.classes[envelope.user_type]
        rate = of_class if sender.rated else UNLIMITED
        of_user, of_address = rate_keys(keys, envelope.user_id, sender.address)
        burst, window_ms, hourly, share = rate_arguments(rate, sender.address)
        reply = await _ADMIT(
            self._connection,
            [
                *self._state,
                keys.done(envelope.turn_id),
                of_user,
                keys.feed(envelope.user_id),
                keys.live(envelope.user_id),
                of_address,
            ],
            [
                epoch,
                envelope.turn_id,
                encode_envelope(envelope),
                envelope.content_hash,
                envelope.user_id,
                envelope.user_type,
                envelope.conversation_id,
                envelope.bundle_id,
                envelope.version,
                envelope.policy,
                nonce,
                envelope.client_turn_id,
                burst,
                window_ms,
                hourly,
                of_class.pressure_threshold,
                limits.hard_limit_threshold,
                limits.capacity_buffer,
                limits.queue_depth_multiplier,
                limits.max_queue_size,
                int(limits.heartbeat_ttl_s * 1000),
                limits.running_per_user,
                keys.channel_prefix,
                secrets.token_hex(4),
                accepted_event(envelope),
                int(limits.memory_threshold * 1000),
                limits.live_per_user,
                share,
                int(proven),
            ],
        )
        left = left_of(rate, reply[0])
        match reply[1:]:
            case [b"admitted", order, accepted, position, eta, interrupted]:
                return Admitted(order, accepted, position, eta / 1000, interrupted.decode() or None, left)
            case [b"delivered", order, accepted, steered]:
                return Delivered(order, accepted, steered.decode(), left)
            case [b"duplicate", state, order, accepted, conversation, packed, steers, interrupted]:
                return Duplicate(
                    state_of(state.decode()),
                    order,
                    accepted,
                    conversation.decode(),
                    packed or None,
                    steers.decode() or None,
                    interrupted.decode() or None,
                    left,
                )
            case [b"unproven"]:
                return Unproven(left)
            case [_, reason, retry_after_ms]:
                return Rejected(reason.decode(), retry_after_ms / 1000, left)
            case _:
                raise ValueError(f"an answer of {len(reply)} parts")

    async def withdraw(self, envelope: TurnEnvelope, *, epoch: int, nonce: str, sender: Sender = ANYWHERE) -> bool:
        """Takes an admission back that PostgreSQL refused; False when it is not there or a worker has claimed it.

        ``sender`` is as it was admitted: what it was charged is given back.
        """
        keys = self._keys
        charged = list(dict.fromkeys(rate_keys(keys, envelope.user_id, sender.address))) if sender.rated else []
        event = msgspec.json.encode(
            {
                "type": "turn.withdrawn",
                "turn_id": envelope.turn_id,
                "client_turn_id": envelope.client_turn_id,
                "conversation_id": envelope.conversation_id,
            }
        )
        withdrawn = await _WITHDRAW(
            self._connection,
            [*self._state, keys.feed(envelope.user_id), keys.live(envelope.user_id), *charged],
            [
                epoch,
                envelope.turn_id,
                nonce,
                self.limits.running_per_user,
                keys.channel_prefix,
                secrets.token_hex(4),
                event,
            ],
        )
        return withdrawn == 1


def accepted_event(envelope: TurnEnvelope) -> bytes:
    """The feed's event of an accepted turn."""
    return msgspec.json.encode(
        {
            "type": "turn.accepted",
            "turn_id": envelope.turn_id,
            "client_turn_id": envelope.client_turn_id,
            "conversation_id": envelope.conversation_id,
            "bundle_id": envelope.bundle_id,
        }
    )
