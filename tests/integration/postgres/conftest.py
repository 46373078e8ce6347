"""A world of turns on a fresh database: short names for what the tests do over and over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
import pytest

from kdcube.postgres.conversations import Conversations
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import (
    Admission,
    Admitted,
    CancelResult,
    Ending,
    FinishOutcome,
    Inserted,
    Started,
    StartOutcome,
    StartRequest,
    StoredTurn,
)
from kdcube.postgres.turns import Turns
from kdcube.protocol.turns import TurnEnvelope, TurnState, UserType, content_hash

EPOCH = 7  # what the world has published
NOW_MS = 1_700_000_000_000


def envelope(
    turn_id: str, conversation_id: str = "c1", user_id: str = "u1", text: str = "hello", **more: Any
) -> TurnEnvelope:
    policy = more.get("policy", "enqueue")
    hashed = content_hash(text=text, conversation_id=conversation_id, bundle_id="echo", payload={}, policy=policy)
    return TurnEnvelope(
        turn_id=turn_id,
        client_turn_id=more.pop("client_turn_id", f"client-{turn_id}"),
        tenant="t",
        project="p",
        user_id=user_id,
        user_type=UserType.REGISTERED,
        session_id="s1",
        request_id="r1",
        conversation_id=conversation_id,
        bundle_id="echo",
        text=text,
        content_hash=hashed,
        **more,
    )


class World:
    """One tenant and project. Turns are admitted in the order of the calls, a second apart."""

    epoch = EPOCH
    now_ms = NOW_MS

    def __init__(self, database: Database, turns: Turns, rivals: AsyncExitStack) -> None:
        self.database = database
        self.turns = turns
        self.conversations = Conversations(database, "t", "p")
        self.epochs = Epochs(database, "t", "p")
        self._orders = count(1)
        self._rivals = rivals

    def admission(
        self, turn_id: str, *args: str, steer_of: str | None = None, interrupts: str | None = None, **more: Any
    ) -> Admission:
        order = next(self._orders)
        return Admission(envelope(turn_id, *args, **more), order, NOW_MS + order * 1000, steer_of, interrupts)

    async def admit(self, turn_id: str, *args: str, **more: Any) -> Admitted:
        return await self.turns.admit(self.admission(turn_id, *args, **more))

    def request(self, turn_id: str, *args: str, claim: str = "claim", epoch: int = EPOCH, **more: Any) -> StartRequest:
        return StartRequest(envelope(turn_id, *args, **more), 1, NOW_MS, claim, "w1", "echo@1", epoch)

    async def start(self, turn_id: str, *args: str, **more: Any) -> StartOutcome:
        return await self.turns.start(self.request(turn_id, *args, **more))

    async def running(self, turn_id: str, *args: str, claim: str = "claim", **more: Any) -> None:
        """Admits and starts."""
        assert await self.admit(turn_id, *args, **more) == Inserted()
        assert isinstance(await self.start(turn_id, *args, claim=claim, **more), Started)

    async def finish(
        self,
        turn_id: str,
        claim: str = "claim",
        state: TurnState = TurnState.COMPLETED,
        answer: str = "hi",
        **more: Any,
    ) -> FinishOutcome:
        ending = Ending(
            turn_id=turn_id, claim_id=claim, state=state, ended_ms=NOW_MS, text_by_marker={"answer": answer}, **more
        )
        return await self.turns.finish(ending)

    async def ended(self, turn_id: str, *args: str, **more: Any) -> None:
        """Admits, starts and completes."""
        await self.running(turn_id, *args, **more)
        await self.finish(turn_id, answer=f"answer to {turn_id}")

    async def cancel(self, turn_id: str, user_id: str = "u1") -> CancelResult:
        return await self.turns.cancel(turn_id, user_id, NOW_MS)

    async def connect(self, dsn: str) -> asyncpg.Connection:
        """A rival's connection, closed at the end of the test."""
        return await self._rivals.enter_async_context(_connection(dsn))

    async def until_blocked(self) -> None:
        """Waits until a statement of this world waits for a lock."""
        while not await self.database.fetch(
            "select from pg_stat_activity where application_name = 'test' and wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0)

    async def row(self, turn_id: str) -> StoredTurn:
        row = await self.turns.get(turn_id)
        assert row is not None
        return row

    async def state(self, turn_id: str) -> TurnState:
        return (await self.row(turn_id)).state


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url, max_size=8, name="test") as database:
        yield database


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with AsyncExitStack() as rivals, Turns(database, "t", "p") as turns:
        world = World(database, turns, rivals)
        await world.epochs.publish(EPOCH)
        yield world
