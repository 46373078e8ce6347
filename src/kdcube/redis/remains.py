"""What turns leave in Valkey, for whoever has to erase it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from kdcube.protocol.turns import TurnEnvelope, decode_envelope
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.scripts import Script

_FORGET_FEED = Script("forget_feed")
_SEPARATOR = b"\x1f"
_ERASED: dict[str, str] = {"type": "data.erased"}


class Remains:
    """Those of one partition."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def states(self, turn_ids: Sequence[str]) -> dict[str, str]:
        """The states (see ``lua/_state.lua``) of those that the working state has."""
        packed = await asyncio.gather(
            *(self._connection.call("HGET", self._keys.turns, turn_id) for turn_id in turn_ids)
        )
        found: dict[str, str] = {}
        for turn_id, record in zip(turn_ids, packed, strict=True):
            if record is not None:
                fields: dict[str, Any] = msgspec.msgpack.decode(record)
                found[turn_id] = fields["s"]
        return found

    async def active_turn(self, conversation_id: str) -> str | None:
        """What occupies a conversation in the working state."""
        value: bytes | None = await self._connection.call("HGET", self._keys.conversations, conversation_id)
        return value.rpartition(_SEPARATOR)[2].decode() if value else None

    async def envelope(self, turn_id: str) -> TurnEnvelope | None:
        """As the working state has it."""
        packed: bytes | None = await self._connection.call("HGET", self._keys.envelopes, turn_id)
        return decode_envelope(packed) if packed else None

    async def now_ms(self) -> int:
        """By Valkey's clock, as turns are accepted."""
        seconds, microseconds = await self._connection.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def forget_turns(self, turn_ids: Sequence[str]) -> None:
        """Erases logs and what is kept to answer repeated sends."""
        keys = self._keys
        await asyncio.gather(
            *(
                self._connection.call("DEL", keys.log(turn_id), keys.log_meta(turn_id), keys.done(turn_id))
                for turn_id in turn_ids
            )
        )

    async def forget_feed(self, user_id: str) -> None:
        """Erases what a user's feed says. Live turns, which are not that old, stay live."""
        keys = self._keys
        await _FORGET_FEED(
            self._connection,
            [keys.feed(user_id), keys.live(user_id)],
            [keys.feed_channel(user_id), msgspec.json.encode(_ERASED)],
        )
