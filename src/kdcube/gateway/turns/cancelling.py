"""Cancels: PostgreSQL first, so that no answer is forgotten, then Valkey, which may be away (rule 5)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.gateway.errors import NotFound
from kdcube.postgres.conversations import Conversations
from kdcube.postgres.records import CancelResult
from kdcube.postgres.turns import Turns
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.protocol.turns import TurnState
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.queue import Queue
from kdcube.telemetry.failpoints import hit
from kdcube.telemetry.instruments import Instruments

_UNFINISHED = frozenset({TurnState.QUEUED, TurnState.RUNNING, TurnState.STEERING})

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def now_ms() -> int:
    return int(time.time() * 1000)


class Cancelling:
    """Cancels turns and conversations of their owner."""

    def __init__(
        self,
        turns: Turns,
        conversations: Conversations,
        queue: Queue,
        epochs: EpochWatch,
        instruments: Instruments | None = None,
    ) -> None:
        self._instruments = instruments or Instruments()
        self._turns = turns
        self._conversations = conversations
        self._queue = queue
        self._epochs = epochs

    async def turn(self, user_id: str, id_: str) -> bool:
        """Cancels by either id; False when the turn has ended already. Raises NotFound."""
        turn = await self._turns.find(user_id, id_)
        if turn is None:
            raise NotFound("There is no such turn.", field="turn_id")
        result = await self._turns.cancel(turn.turn_id, user_id, now_ms())
        return await self.carry_out([result])

    async def conversation(self, user_id: str, conversation_id: str) -> bool:
        """Cancels all that is unfinished; False when nothing is. Raises NotFound."""
        results = await self._turns.cancel_conversation(conversation_id, user_id, now_ms())
        if not results and await self._conversations.get(user_id, conversation_id) is None:
            raise NotFound("There is no such conversation.", field="conversation_id")
        return await self.carry_out(results)

    async def interrupted(self, turn_id: str, user_id: str, *, ended: bool) -> None:
        """Carries out the cancel that an admission committed, if it did. Repeating it is safe.

        ``ended``: that commit ended the turn. It counts then, and not once more when it is repeated.
        """
        turn = await self._turns.get(turn_id, user_id)
        if turn is not None and turn.cancel_requested:
            await hit("ingress.cancel.committed")
            await self._tell(turn_id, turn.state, counts=ended)

    async def carry_out(self, results: Iterable[CancelResult]) -> bool:
        """Tells Valkey what PostgreSQL has committed; False when there was nothing to cancel."""
        cancelled = [result for result in results if result.state_before in _UNFINISHED]
        await hit("ingress.cancel.committed")
        for result in cancelled:
            await self._tell(result.turn_id, result.state_after, result.steers_discarded, counts=True)
        return bool(cancelled)

    async def _tell(
        self, turn_id: str, state: TurnState | None, discarded: Sequence[str] = (), *, counts: bool
    ) -> None:
        """Valkey's failures are only logged: START refuses a cancelled turn, and a rebuild knows of the cancel."""
        try:
            if state is TurnState.CANCELLED:
                await self._finish(turn_id, discarded, counts)
            elif state is TurnState.RUNNING:
                await self._queue.cancel(turn_id, epoch=self._epochs.current)
        except EpochMismatch:
            self._epochs.suspect()
        except StoreUnavailable as error:
            logger.warning("cancel.valkey_not_told", turn_id=turn_id, reason=str(error))

    async def _finish(self, turn_id: str, discarded: Sequence[str], counts: bool) -> None:
        """Ends a turn that waited, maybe for another attempt."""
        envelope, turn = await self._turns.envelope(turn_id), await self._turns.get(turn_id)
        if envelope is None or turn is None:
            return
        if counts:
            self._instruments.counter("turns_ended", bundle=turn.bundle_id, state=TurnState.CANCELLED).add()
        line = terminal_line(TurnState.CANCELLED, ts_ms=now_ms(), attempt=turn.attempt)
        await self._queue.finish(
            envelope, None, epoch=self._epochs.current, state=TurnState.CANCELLED, line=line, discarded=discarded
        )
