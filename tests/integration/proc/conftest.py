"""A proc in the test's process, on real stores and real bundle hosts; what ingress does is done by ``Client``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kdcube
from kdcube.config.load import load
from kdcube.config.proc import ProcSettings
from kdcube.postgres.database import Database, open_database
from kdcube.postgres.records import Admission as RowAdmission
from kdcube.postgres.records import StoredTurn
from kdcube.postgres.turns import Turns
from kdcube.proc.main import Proc
from kdcube.protocol.events import Fold, decode_body, split_line
from kdcube.protocol.ids import new_id, turn_id_for
from kdcube.protocol.turns import TERMINAL, Policy, TurnEnvelope, UserType, content_hash
from kdcube.redis.admission import Admission, AdmissionLimits, Admitted, ClassLimits, Delivered
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.epoch import WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.feed import Feeds
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Queue
from kdcube.redis.subscriber import Subscriber, open_subscriber
from kdcube.redis.workers import Workers

ECHO = str(Path(kdcube.__file__).parent / "echo")
KEYS = Keys("local", "main")
LIMITS = AdmissionLimits(
    classes={user_type: ClassLimits(-1, 60, -1, pressure_threshold=1.0) for user_type in UserType},
    hard_limit_threshold=1.0,
    capacity_buffer=0.0,
    queue_depth_multiplier=1000,
    max_queue_size=-1,
)


@dataclass
class Client:
    """Sends as ingress does, and reads logs."""

    connection: Connection
    subscriber: Subscriber
    database: Database
    turns: Turns
    admission: Admission
    queue: Queue
    logs: EventLogs
    feeds: Feeds
    working_state: WorkingState
    sent: list[TurnEnvelope] = field(default_factory=list[TurnEnvelope])

    async def send(
        self,
        text: str = "one two three",
        *,
        user: str = "ada",
        conversation: str | None = None,
        echo: dict[str, Any] | None = None,
        policy: Policy = Policy.ENQUEUE,
        key: str | None = None,
        bundle: str = "echo@1.0.0",
        commit: bool = True,
    ) -> TurnEnvelope:
        key = key or new_id()
        payload = {"echo": echo} if echo else {}
        conversation = conversation or new_id()
        envelope = TurnEnvelope(
            turn_id=turn_id_for("local", "main", user, key),
            client_turn_id=key,
            tenant="local",
            project="main",
            user_id=user,
            user_type=UserType.REGISTERED,
            session_id=f"session-{user}",
            request_id=new_id(),
            conversation_id=conversation,
            bundle_id=bundle,
            text=text,
            payload=payload,
            policy=policy,
            content_hash=content_hash(
                text=text, conversation_id=conversation, bundle_id=bundle, payload=payload, policy=policy
            ),
        )
        epoch = await self.epoch()
        outcome = await self.admission.admit(envelope, epoch=epoch, nonce=new_id(), proven=True)
        assert isinstance(outcome, Admitted | Delivered), outcome
        if commit:
            await self.turns.admit(
                RowAdmission(
                    envelope,
                    outcome.order,
                    outcome.accepted_ms,
                    steer_of=outcome.steers if isinstance(outcome, Delivered) else None,
                    interrupts=outcome.interrupts if isinstance(outcome, Admitted) else None,
                )
            )
        Workers(self.connection, KEYS).ring()
        if isinstance(outcome, Admitted) and outcome.interrupts:
            await self.queue.cancel(outcome.interrupts, epoch=epoch)
        self.sent.append(envelope)
        return envelope

    async def epoch(self) -> int:
        while (epoch := await self.working_state.epoch()) is None:
            await asyncio.sleep(0.01)
        return epoch

    async def lines(self, turn_id: str) -> list[bytes]:
        """The log, once it is closed."""
        async with self.changes(KEYS.log_channel(turn_id)) as changed:
            while True:
                changed.clear()
                lines: list[bytes] = []
                while True:
                    page = await self.logs.read(turn_id, len(lines))
                    if not page.lines:
                        break
                    lines.extend(page.lines)
                if page.closed:
                    return lines
                await changed.wait()

    async def until(self, turn_id: str, count: int) -> None:
        """Until the log has so many events."""
        async with self.changes(KEYS.log_channel(turn_id)) as changed:
            while (await self.logs.read(turn_id, 0)).tail < count:
                await changed.wait()
                changed.clear()

    @asynccontextmanager
    async def changes(self, channel: str) -> AsyncGenerator[asyncio.Event]:
        event = asyncio.Event()

        def hear(_: bytes | None) -> None:
            event.set()

        self.subscriber.subscribe(channel, hear)
        try:
            yield event
        finally:
            self.subscriber.unsubscribe(channel, hear)

    async def answer(self, turn_id: str) -> str:
        return fold(turn_id, await self.lines(turn_id)).text()

    async def receipts(self, steer_id: str) -> list[str]:
        """What the user was told of a steer."""
        events = [event for _, event in (await self.feeds.read("ada", 0)).events if event["turn_id"] == steer_id]
        return [event["state"] for event in events if event["type"] == "steer.receipt"]

    async def receipts_until(self, steer_id: str, wanted: set[str]) -> list[str]:
        async with self.changes(KEYS.feed_channel("ada")) as changed:
            while True:
                changed.clear()
                receipts = await self.receipts(steer_id)
                if wanted.intersection(receipts):
                    return receipts
                await changed.wait()

    async def ended(self, turn_id: str) -> StoredTurn:
        """The row, once Valkey has closed the log."""
        await self.lines(turn_id)
        row = await self.turns.get(turn_id)
        assert row is not None
        assert row.state in TERMINAL
        return row


def fold(turn_id: str, lines: list[bytes]) -> Fold:
    whole = Fold(turn_id)
    whole.add_all(lines)
    return whole


def kinds(lines: list[bytes]) -> list[str]:
    return [split_line(line)[0].decode() for line in lines]


def terminal(lines: list[bytes]) -> dict[str, Any]:
    return decode_body(lines[-1])["data"]


@dataclass
class Deployment:
    """Settings for procs of one installation."""

    valkey_url: str
    database_url: str
    home: Path

    def settings(self, name: str = "proc-1", *, max_attempts: int = 1, **variables: str) -> ProcSettings:
        entry = {"path": ECHO, "max_attempts": max_attempts}
        registry = {"default_bundle_id": "echo@1.0.0", "bundles": {"echo@1.0.0": entry}}
        return load(
            ProcSettings,
            {
                "REDIS_URL": self.valkey_url,
                "DATABASE_URL": self.database_url,
                "KDCUBE_HOME": str(self.home),
                "INSTANCE_ID": name,
                "AGENTIC_BUNDLES_JSON": msgspec.json.encode(registry).decode(),
                "KDCUBE_SLOTS": "4",
                **variables,
            },
        )

    @asynccontextmanager
    async def proc(
        self, name: str = "proc-1", *, max_attempts: int = 1, lease_s: float = 15.0, **variables: str
    ) -> AsyncGenerator[Proc]:
        settings = self.settings(name, max_attempts=max_attempts, **variables)
        async with Proc(settings, lease_s=lease_s).opened() as proc:
            yield proc


@pytest.fixture
def deployment(valkey_url: str, database_url: str, tmp_path: Path) -> Deployment:
    return Deployment(valkey_url, database_url, tmp_path)


@pytest.fixture
async def client(deployment: Deployment) -> AsyncGenerator[Client]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        connection = await enter(open_connection(deployment.valkey_url, name="client"))
        subscriber = await enter(open_subscriber(deployment.valkey_url, name="client"))
        database = await enter(open_database(deployment.database_url, name="client"))
        turns = await enter(Turns(database, "local", "main"))
        yield Client(
            connection,
            subscriber,
            database,
            turns,
            Admission(connection, KEYS, LIMITS),
            Queue(connection, KEYS),
            EventLogs(connection, KEYS),
            Feeds(connection, KEYS),
            WorkingState(connection, KEYS),
        )
