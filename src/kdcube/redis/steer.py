"""Steers: messages for a running turn, each with a receipt."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from kdcube.protocol.turns import TurnEnvelope, decode_envelope
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.queue import DONE_TTL_S, Fenced
from kdcube.redis.scripts import Script

_TAKE = Script("take_steers")
_APPLY = Script("apply_steers")


@dataclass(frozen=True, slots=True)
class TakenSteer:
    """A steer from the inbox, with what its row in PostgreSQL needs."""

    envelope: TurnEnvelope
    order: int
    accepted_ms: int


class Steers:
    """The steers of one partition."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._state = keys.state()

    async def take(self, turn: TurnEnvelope, claim_id: str, *, epoch: int) -> list[TakenSteer] | Fenced:
        """The steers of a turn that are not applied, in order, as often as it asks; their receipt becomes ``seen``."""
        keys = self._keys
        reply = await _TAKE(
            self._connection,
            [*self._state, keys.feed(turn.user_id), keys.live(turn.user_id)],
            [epoch, turn.turn_id, claim_id, keys.channel_prefix, secrets.token_hex(4)],
        )
        if reply == b"fenced":
            return Fenced()
        return [TakenSteer(decode_envelope(envelope), order, accepted) for envelope, order, accepted in reply]

    async def applied(self, turn: TurnEnvelope, claim_id: str, steer_ids: Sequence[str], *, epoch: int) -> bool:
        """PostgreSQL has committed that the bundle takes ``steer_ids``: their receipt becomes ``applied``."""
        keys = self._keys
        reply = await _APPLY(
            self._connection,
            [
                *self._state,
                keys.feed(turn.user_id),
                keys.live(turn.user_id),
                *(keys.done(steer) for steer in steer_ids),
            ],
            [epoch, turn.turn_id, claim_id, keys.channel_prefix, secrets.token_hex(4), DONE_TTL_S * 1000, *steer_ids],
        )
        return reply == 1
