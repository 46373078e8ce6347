"""Ingress processes and a small worker on real stores. What stands in the logs was written by the real scripts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from kdcube.ingress.streams import Streams, StreamSettings
from kdcube.postgres.database import open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import Admission as RowAdmission
from kdcube.postgres.records import Ending, Finished, Started, StartRequest
from kdcube.postgres.turns import Turns
from kdcube.protocol.cursors import Position
from kdcube.protocol.endings import terminal_line
from kdcube.protocol.events import Fold, Kind, encode_line
from kdcube.protocol.heads import encode_head
from kdcube.protocol.ids import new_id, turn_id_for
from kdcube.protocol.turns import TurnEnvelope, TurnState, UserType, content_hash
from kdcube.redis.admission import Admission, AdmissionLimits, Admitted, ClassLimits
from kdcube.redis.connection import Connection, open_connection
from kdcube.redis.epoch import EpochWatch, WorkingState
from kdcube.redis.eventlog import Appended, EventLogs
from kdcube.redis.feed import Feeds
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Claim, Opened, Queue
from kdcube.redis.subscriber import open_subscriber
from kdcube.redis.workers import Workers

KEYS = Keys("t", "p")
QUICK = StreamSettings(tick_s=0.05, check_s=0.3, feed_check_s=0.3, position_s=0.1)
LIMITS = AdmissionLimits(
    classes={user_type: ClassLimits(-1, 60, -1, pressure_threshold=1.0) for user_type in UserType},
    hard_limit_threshold=1.0,
    capacity_buffer=0.0,
    queue_depth_multiplier=1000,
    max_queue_size=-1,
    running_per_user=100,
)


@dataclass
class Running:
    """A turn that the worker has: what proc knows of it."""

    envelope: TurnEnvelope
    claim: Claim
    position: Position
    fold: Fold
    seq: int = 0
    said: int = 0


@dataclass
class Site:
    """The stores, with what ingress and proc do to them."""

    valkey_url: str
    connection: Connection
    turns: Turns
    epochs: Epochs
    queue: Queue
    logs: EventLogs
    feeds: Feeds
    admission: Admission
    working_state: WorkingState
    workers: Workers
    epoch: int = 0
    running: dict[str, Running] = field(default_factory=dict)

    async def rebuild(self) -> None:
        """Another epoch, with nothing in the working state."""
        self.epoch = await self.epochs.next()
        assert await self.working_state.begin(self.epoch)
        await self.epochs.publish(self.epoch)
        assert await self.working_state.publish(self.epoch, max_order=0, run_id="r")
        await self.workers.beat("w", slots=100, info={})

    async def admit(self, user: str = "ada", conversation: str | None = None) -> TurnEnvelope:
        key = f"turn_{new_id()[:12]}"
        conversation = conversation or new_id()
        envelope = TurnEnvelope(
            turn_id=turn_id_for("t", "p", user, key),
            client_turn_id=key,
            tenant="t",
            project="p",
            user_id=user,
            user_type=UserType.REGISTERED,
            session_id=f"s-{user}",
            request_id=new_id(),
            conversation_id=conversation,
            bundle_id="echo@1",
            text="hello",
            content_hash=content_hash(
                text="hello", conversation_id=conversation, bundle_id="echo@1", payload={}, policy="enqueue"
            ),
        )
        outcome = await self.admission.admit(envelope, epoch=self.epoch, nonce=new_id())
        assert isinstance(outcome, Admitted), outcome
        await self.turns.admit(RowAdmission(envelope, outcome.order, outcome.accepted_ms))
        return envelope

    async def start(self, turn_id: str) -> Running:
        """Claims what is in the queue and starts this turn."""
        if turn_id not in self.running:
            claims = await self.queue.claim(
                epoch=self.epoch,
                worker_id="w",
                revision="1",
                room={"echo@1": 100},
                claim_ids=[secrets.token_hex(8) for _ in range(50)],
            )
            assert isinstance(claims, list)
            for claim in claims:
                self.running[claim.envelope.turn_id] = Running(
                    claim.envelope, claim, Position(), Fold(claim.envelope.turn_id)
                )
        turn = self.running[turn_id]
        claim = turn.claim
        started = await self.turns.start(
            StartRequest(turn.envelope, claim.order, claim.accepted_ms, claim.claim_id, "w", "v1", self.epoch)
        )
        assert isinstance(started, Started), started
        opened = await self.queue.start(
            turn.envelope,
            claim.claim_id,
            epoch=self.epoch,
            attempt=started.attempt,
            head=encode_head(turn.envelope, "v1"),
            line=encode_line(Kind.START, "chat.start", ts_ms=1, attempt=started.attempt, data={"message": "hello"}),
        )
        assert isinstance(opened, Opened), opened
        turn.position = Position(opened.incarnation, opened.tail)
        turn.fold.attempt, turn.fold.state = started.attempt, "running"
        return turn

    async def say(self, turn_id: str, *words: str) -> None:
        """One append of a delta each."""
        turn = self.running[turn_id]
        turn.seq += 1
        lines: list[bytes] = []
        for word in words:
            turn.said += 1
            delta = {"text": word, "marker": "answer", "index": turn.said, "completed": False}
            lines.append(encode_line(Kind.DELTA, "chat.delta", ts_ms=1, attempt=turn.fold.attempt, delta=delta))
            turn.fold.delta("answer", word)
        done = await self.logs.append(
            turn_id,
            turn.claim.claim_id,
            epoch=self.epoch,
            seq=turn.seq,
            tail=turn.position.offset,
            count=len(lines),
            lines=b"\n".join(lines),
        )
        assert isinstance(done, Appended), done
        turn.position = Position(turn.position.incarnation, done.tail)

    async def reopen(self, turn_id: str) -> None:
        """A new incarnation, as after a loss."""
        turn = self.running[turn_id]
        turn.seq += 1
        data = msgspec.to_builtins(turn.fold.snapshot())
        line = encode_line(Kind.SNAPSHOT, "turn.snapshot", ts_ms=1, attempt=turn.fold.attempt, data=data)
        done = await self.logs.reopen(
            turn_id,
            turn.claim.claim_id,
            epoch=self.epoch,
            seq=turn.seq,
            line=line,
            head=encode_head(turn.envelope, "v1"),
            incarnation=turn.position.incarnation + 1,
        )
        assert isinstance(done, Position), done
        turn.position = done

    async def end(self, turn_id: str, state: TurnState = TurnState.COMPLETED, *, close: bool = True) -> None:
        turn = self.running[turn_id]
        finished = await self.turns.finish(
            Ending(
                turn_id=turn_id,
                claim_id=turn.claim.claim_id,
                state=state,
                ended_ms=1,
                text_by_marker=turn.fold.snapshot().text,
            )
        )
        assert isinstance(finished, Finished), finished
        if close:
            line = terminal_line(state, ts_ms=1, attempt=turn.fold.attempt, answer=turn.fold.text())
            assert await self.queue.finish(turn.envelope, turn.claim.claim_id, epoch=self.epoch, state=state, line=line)

    async def whole(self, *words: str, user: str = "ada") -> str:
        """A turn from its acceptance to its end, one append a word."""
        envelope = await self.admit(user)
        await self.start(envelope.turn_id)
        for word in words:
            await self.say(envelope.turn_id, word)
        await self.end(envelope.turn_id)
        return envelope.turn_id

    async def expire(self, turn_id: str) -> None:
        await self.connection.call("DEL", KEYS.log(turn_id), KEYS.log_meta(turn_id))

    @asynccontextmanager
    async def process(self, name: str = "ingress", settings: StreamSettings = QUICK) -> AsyncGenerator[Streams]:
        """An ingress process: sockets of its own."""
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(open_connection(self.valkey_url, name=name))
            subscriber = await stack.enter_async_context(open_subscriber(self.valkey_url, name=f"{name}-ears"))
            watch = await stack.enter_async_context(EpochWatch(connection, subscriber, KEYS).watching())
            streams = Streams(
                logs=EventLogs(connection, KEYS),
                feeds=Feeds(connection, KEYS),
                queue=Queue(connection, KEYS),
                subscriber=subscriber,
                epoch_watch=watch,
                turns=self.turns,
                keys=KEYS,
                settings=settings,
            )
            yield await stack.enter_async_context(streams)


@pytest.fixture
async def site(valkey_url: str, database_url: str) -> AsyncGenerator[Site]:
    async with (
        open_connection(valkey_url, name="worker") as connection,
        open_database(database_url) as database,
        Turns(database, "t", "p") as turns,
    ):
        site = Site(
            valkey_url,
            connection,
            turns,
            Epochs(database, "t", "p"),
            Queue(connection, KEYS, running_per_user=100),
            EventLogs(connection, KEYS),
            Feeds(connection, KEYS),
            Admission(connection, KEYS, LIMITS),
            WorkingState(connection, KEYS),
            Workers(connection, KEYS),
        )
        await site.rebuild()
        yield site


@pytest.fixture
async def streams(site: Site) -> AsyncGenerator[Streams]:
    async with site.process() as streams:
        yield streams
