"""The epoch of the working state: its rebuilding from PostgreSQL when Valkey was lost."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from kdcube.protocol.errors import ConfigurationError, EpochMismatch, StoreUnavailable
from kdcube.protocol.turns import Policy, TurnEnvelope, TurnState, encode_envelope
from kdcube.redis.admission import accepted_event
from kdcube.redis.connection import Connection, ServerError
from kdcube.redis.keys import Keys
from kdcube.redis.queue import DONE_TTL_S
from kdcube.redis.scripts import Script
from kdcube.redis.server import server_facts
from kdcube.redis.subscriber import Subscriber

_BEGIN = Script("begin_rebuild")
_RESTORE = Script("restore")
_PUBLISH = Script("publish_epoch")

FORMAT_VERSION = 1
"""The format of what stands in Valkey; this release reads this one and the one before (rule 27)."""

_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A turn that PostgreSQL knows as queued, running or steering, or that ended and whose code may still run."""

    envelope: TurnEnvelope
    order: int
    accepted_ms: int
    state: TurnState
    claim_id: str = ""
    worker_id: str = ""
    steers: str = ""
    cancelled: bool = False


class WorkingState:
    """Builds and opens the working state of one partition."""

    def __init__(self, connection: Connection, keys: Keys, *, lease_s: float = 15.0, running_per_user: int = 8) -> None:
        self._connection = connection
        self._keys = keys
        self._state = keys.state()
        self._lease_ms = int(lease_s * 1000)
        self.running_per_user = running_per_user

    async def epoch(self) -> int | None:
        """The published epoch; None when Valkey is empty or being rebuilt."""
        value = await self._connection.call("GET", self._keys.epoch)
        return int(value) if value else None

    async def check_format(self) -> None:
        """Claims the data format at start. Raises ConfigurationError when what stands there is too old or too new."""
        found = int(
            await self._connection.call("SET", self._keys.format, FORMAT_VERSION, "NX", "GET") or FORMAT_VERSION
        )
        if not FORMAT_VERSION - 1 <= found <= FORMAT_VERSION:
            raise ConfigurationError(
                "REDIS_URL", f"its data format is {found}; this release reads {FORMAT_VERSION - 1} to {FORMAT_VERSION}"
            )

    async def begin(self, epoch: int) -> bool:
        """Empties the working state and closes it. False when a later rebuild is under way."""
        return await _BEGIN(self._connection, [*self._state, self._keys.building], [epoch]) == 1

    async def restore(self, turn: Unfinished, *, epoch: int) -> bool:
        """Puts a turn back in its old order; False when the working state has it. Those under a claim come first."""
        keys, envelope = self._keys, turn.envelope
        return (
            await _RESTORE(
                self._connection,
                [
                    *self._state,
                    keys.building,
                    keys.feed(envelope.user_id),
                    keys.live(envelope.user_id),
                    keys.done(envelope.turn_id),
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
                    envelope.client_turn_id,
                    turn.order,
                    turn.accepted_ms,
                    turn.state,
                    turn.claim_id,
                    turn.worker_id,
                    turn.steers,
                    self.running_per_user,
                    self._lease_ms,
                    keys.channel_prefix,
                    secrets.token_hex(4),
                    accepted_event(envelope),
                    int(turn.cancelled),
                    int(envelope.policy is Policy.INTERRUPT),
                    DONE_TTL_S * 1000,
                ],
            )
            == 1
        )

    async def written_by(self) -> str | None:
        """The run id of the server on which the working state was built."""
        value = await self._connection.call("GET", self._keys.server)
        return value.decode() if value else None

    async def missing(self, turn_ids: Sequence[str]) -> set[str]:
        """Those of ``turn_ids`` that the working state lacks: what a reconciler has to look at."""
        here = await asyncio.gather(
            *(self._connection.call("HEXISTS", self._keys.turns, turn_id) for turn_id in turn_ids)
        )
        return {turn_id for turn_id, found in zip(turn_ids, here, strict=True) if not found}

    async def publish(self, epoch: int, *, max_order: int, run_id: str) -> bool:
        """Opens the working state under ``epoch`` and tells every service. False when another rebuild took over."""
        keys = self._keys
        return (
            await _PUBLISH(
                self._connection,
                [keys.epoch, keys.building, keys.doorbell, keys.schedule, keys.server],
                [epoch, keys.epoch_channel, max_order, run_id, DONE_TTL_S * 1000],
            )
            == 1
        )


class EpochWatch:
    """Knows the published epoch: from its channel, and read again after every gap or suspicion."""

    def __init__(self, connection: Connection, subscriber: Subscriber, keys: Keys) -> None:
        self._connection = connection
        self._subscriber = subscriber
        self._keys = keys
        self._current: int | None = None
        self._changed = asyncio.Event()
        self._stale = asyncio.Event()
        self._heard = 0

    @property
    def current(self) -> int:
        """The epoch to work under. Raises EpochMismatch while there is none."""
        if self._current is None:
            self._stale.set()
            raise EpochMismatch
        return self._current

    def known(self) -> int | None:
        """The epoch, or None while there is none."""
        return self._current

    def suspect(self) -> None:
        """A script refused the epoch: it is read again soon."""
        self._current = None
        self._stale.set()

    async def wait_for(self, other_than: int | None = None) -> int:
        """The published epoch, as soon as there is one other than ``other_than``."""
        while self._current is None or self._current == other_than:
            self._changed.clear()
            await self._changed.wait()
        return self._current

    async def stands(self, epoch: int) -> bool:
        """Whether ``epoch`` is published on the very server that answers now: no other took its place since."""
        facts = await server_facts(self._connection)
        published, built_on = await self._connection.call("MGET", self._keys.epoch, self._keys.server)
        return published == b"%d" % epoch and built_on == facts.run_id.encode()

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[EpochWatch]:
        """Watches as long as the context is open; an epoch that is there already is known at entry."""
        self._subscriber.subscribe(self._keys.epoch_channel, self._hear)
        await self._read()
        task = asyncio.create_task(self._refresh())
        try:
            yield self
        finally:
            task.cancel()
            self._subscriber.unsubscribe(self._keys.epoch_channel, self._hear)
            with suppress(asyncio.CancelledError):
                await task

    def _hear(self, payload: bytes | None) -> None:
        if payload is None:
            self._stale.set()
        else:
            self._heard += 1
            self._set(int(payload))

    def _set(self, epoch: int | None) -> None:
        if epoch != self._current:
            self._current = epoch
            self._changed.set()

    async def _read(self) -> None:
        heard = self._heard
        try:
            value = await self._connection.call("GET", self._keys.epoch)
        except (StoreUnavailable, ServerError):
            value = None
        if heard == self._heard:  # else the answer may be older than what was heard on the other socket
            self._set(int(value) if value else None)

    async def _refresh(self) -> None:
        while True:
            # A published epoch is heard; while there is none, or on suspicion, look again.
            if self._current is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stale.wait(), _LOOK_AGAIN_S)
                    await asyncio.sleep(_LOOK_AGAIN_S / 4)  # a burst of suspicions is one look
            else:
                await self._stale.wait()
            self._stale.clear()
            await self._read()
