"""Ingress, workers and the maintenance, each as an actor that runs the product's own code."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.integration.redis.partition import NO_LIMITS
from tests.model.actors import Actor, GatedConnection, GatedDatabase
from tests.model.hosts import ModelPool, Run

from kdcube.config.bundles import BundleEntry
from kdcube.gateway.turns.accepting import Accepting
from kdcube.gateway.turns.cancelling import Cancelling
from kdcube.postgres.conversations import Conversations
from kdcube.postgres.database import Database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.erasing import Erasing
from kdcube.postgres.turns import Turns
from kdcube.proc.bundles.jobs import TurnJob, TurnSink
from kdcube.proc.desk import BundleGrant, Desk
from kdcube.proc.eraser import Eraser
from kdcube.proc.leader import Leader
from kdcube.proc.lease import LeaseKeeper
from kdcube.proc.protection import NoProtection
from kdcube.proc.reaper import Reaper
from kdcube.proc.reconciler import Reconciler
from kdcube.proc.worker import Worker
from kdcube.protocol.errors import EpochMismatch, KDCubeError, StoreUnavailable
from kdcube.redis.admission import Admission
from kdcube.redis.epoch import EpochWatch, WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Queue
from kdcube.redis.remains import Remains
from kdcube.redis.renewal import Renewal
from kdcube.redis.steer import Steers
from kdcube.redis.workers import Workers
from kdcube.secrets.secrets import Granted

TENANT, PROJECT = "acme", "support"
KEYS = Keys(TENANT, PROJECT)
ATTEMPTS = {"once@1": 1, "twice@1": 2}


async def grant(_: BundleEntry) -> BundleGrant:
    return BundleGrant({}, Granted())


LEASE_S = 3600.0
"""Leases end when the test says so, not when it takes long."""
HEARTBEAT_TTL_S = 3600.0
PATIENCE_S = 60.0
"""Of the stores' real clients: a machine that is busy must not change what happens."""
RUNNING_PER_USER = 2
SLOTS = 2
QUEUE_LIMIT_S = 1800.0
_numbers = count(1)


class Subscriber:
    """Hears what the test lets it hear. A message is a hint, so it may come at any time, or never."""

    def __init__(self) -> None:
        self.heard: list[Callable[[bytes | None], None]] = []

    def subscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None:
        self.heard.append(listener)

    def unsubscribe(self, channel: str, listener: Callable[[bytes | None], None]) -> None:
        self.heard.remove(listener)

    def again(self) -> None:
        """The connection was lost and is back: who listens looks again."""
        for listener in self.heard:
            listener(None)


@dataclass(frozen=True)
class Stores:
    """The real ones. ``call`` is one command; ``clock`` that of leases."""

    url: str
    call: Callable[..., Any]
    direct: Any
    database: Database
    names: dict[str, str]
    clock: Callable[[], float]


class Service:
    """One process: an actor and what its main function builds."""

    tolerates: tuple[type[Exception], ...] = ()

    def __init__(self, name: str, stores: Stores) -> None:
        self.name = name
        self.stores = stores
        self.actor = Actor(name, self.tolerates)
        self.subscriber = Subscriber()
        self.stalled = False
        self.stopped = asyncio.Event()
        self.main = self.actor.spawn(self._main())

    async def _main(self) -> None:
        self.connection: Any = GatedConnection(self.actor, self.stores.call, self.stores.names)
        self.database = GatedDatabase(self.actor, self.stores.database)
        self.queue = Queue(
            self.connection,
            KEYS,
            running_per_user=RUNNING_PER_USER,
            lease_s=LEASE_S,
            heartbeat_ttl_s=HEARTBEAT_TTL_S,
        )
        async with AsyncExitStack() as stack:
            self.turns = await stack.enter_async_context(Turns(self.database, TENANT, PROJECT))
            self.epochs = EpochWatch(Looking(self), self.subscriber, KEYS)  # type: ignore[arg-type]
            await stack.enter_async_context(self.epochs.watching())
            await self._serve(stack)
            await self.stopped.wait()

    async def _serve(self, stack: AsyncExitStack) -> None:
        raise NotImplementedError

    def crash(self) -> Any:
        """Kills it; what it had asked for and nobody granted."""
        return self.actor.crash()


class Looking:
    """The connection of an EpochWatch: its own look at the epoch needs no leave, questions of others do."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def call(self, *args: Any) -> Any:
        if args[0] == "GET":
            return self._service.stores.direct(*args)
        return self._service.connection.call(*args)


class Ingress(Service):
    tolerates = (KDCubeError,)

    async def _serve(self, stack: AsyncExitStack) -> None:
        limits = dataclasses.replace(NO_LIMITS, heartbeat_ttl_s=HEARTBEAT_TTL_S, running_per_user=RUNNING_PER_USER)
        self.conversations = Conversations(self.database, TENANT, PROJECT)
        self.cancelling = Cancelling(self.turns, self.conversations, self.queue, self.epochs)
        admission = Admission(self.connection, KEYS, limits)
        workers = Workers(self.connection, KEYS)
        self.accepting = await stack.enter_async_context(
            Accepting(admission, self.queue, workers, self.turns, self.epochs, self.cancelling)
        )

    async def delete(self, user: str, conversation: str) -> None:
        """As the route does."""
        cancelled = await self.conversations.delete(user, conversation, 1)
        if cancelled is not None:
            await self.cancelling.carry_out(cancelled)


class Doorbell:
    """Rings when nothing else goes on."""

    def __init__(self) -> None:
        self.waiting: asyncio.Future[None] | None = None

    async def blpop(self, key: str, timeout_s: float) -> None:
        self.waiting = asyncio.get_running_loop().create_future()
        await self.waiting

    def ring(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class SteppedKeeper(LeaseKeeper):
    """Counts from the claim by the same clock as from a renewal: that of the test."""

    def add(self, turn_id: str, claim_id: str, *, sent_at: float) -> None:
        super().add(turn_id, claim_id, sent_at=self._clock())

    @property
    def claims(self) -> set[tuple[str, str]]:
        """Turns with their claims that it keeps."""
        return {(turn, lease.claim_id) for turn, lease in self._leases.items()}

    def renewed_at(self, now: float) -> set[str]:
        """Claims that are as fresh as that."""
        return {lease.claim_id for lease in self._leases.values() if lease.sent_at >= now}


class WorkerService(Service):
    def __init__(self, name: str, stores: Stores, began: Callable[[WorkerService, TurnJob, TurnSink], Run]) -> None:
        self._began = began
        self.worker_id = f"{name}.{next(_numbers)}"
        self.runs: list[Run] = []
        self.draining: asyncio.Task[None] | None = None
        self.ready = False
        super().__init__(name, stores)

    async def _serve(self, stack: AsyncExitStack) -> None:
        self.pool = ModelPool(ATTEMPTS, SLOTS, self._begin)
        self.doorbell = Doorbell()
        renewal = Renewal(
            self.stores.url,
            KEYS,
            worker_id=self.worker_id,
            lease_s=LEASE_S,
            heartbeat_ttl_s=HEARTBEAT_TTL_S,
            epoch=self.epochs.known,
            timeout_s=PATIENCE_S,
            describe=lambda: (0 if self.worker.draining else SLOTS, {"bundles": list(ATTEMPTS)}),
        )
        stack.callback(renewal.close)
        self.keeper = SteppedKeeper(
            renewal,
            lease_s=LEASE_S,
            on_lost=lambda turn, claim: self.worker.lost(turn, claim),
            on_cancelled=lambda turn, claim: self.worker.cancelled(turn, claim),
            clock=self.stores.clock,
        )
        desk = Desk(
            worker_id=self.worker_id,
            turns=self.turns,
            queue=self.queue,
            logs=EventLogs(self.connection, KEYS),
            steers=Steers(self.connection, KEYS),
            epoch_watch=self.epochs,
            pool=self.pool,  # type: ignore[arg-type]
            grants=grant,
        )
        self.worker = Worker(
            desk,
            keys=KEYS,
            slots=SLOTS,
            revision="r1",
            doorbell=self.doorbell,  # type: ignore[arg-type]
            subscriber=self.subscriber,  # type: ignore[arg-type]
            ring=lambda: None,  # a hint, which may get lost
            leases=self.keeper,
            protection=NoProtection(),
        )
        self.pool.on_change = self.worker.room_changed
        await stack.enter_async_context(self.worker.working())
        self.ready = True
        self.keeper.renew()

    def _begin(self, job: TurnJob, sink: TurnSink) -> Run:
        run = self._began(self, job, sink)
        self.runs.append(run)
        return run

    @property
    def claims(self) -> set[str]:
        """Of the turns that it works on, whether or not their leases are kept."""
        return {attempt.claim_id for attempt in self.worker._attempts.values()}

    def crash(self) -> Any:
        for run in self.runs:
            run.stubborn = run.alive = False
        return super().crash()

    def drain(self) -> None:
        """As on SIGTERM: the process leaves when it is idle."""

        async def drain() -> None:
            await self.worker.drain(500.0, interrupt_s=500.0)
            self.pool.draining = True
            self.stopped.set()

        if self.draining is None:
            self.draining = self.actor.spawn(drain())


class Maintenance(Service):
    """The leader of one partition; who leads is not asked here, what it does is safe with two of them."""

    async def _serve(self, stack: AsyncExitStack) -> None:
        logs = EventLogs(self.connection, KEYS)
        working_state = WorkingState(self.connection, KEYS, lease_s=LEASE_S, running_per_user=RUNNING_PER_USER)
        workers = Workers(self.connection, KEYS, heartbeat_ttl_s=HEARTBEAT_TTL_S)
        self.reaper = Reaper(
            turns=self.turns,
            queue=self.queue,
            logs=logs,
            max_attempts=lambda bundle: ATTEMPTS[bundle],
            clock=self.stores.clock,
        )
        reconciler = Reconciler(
            turns=self.turns,
            epochs=Epochs(self.database, TENANT, PROJECT),
            queue=self.queue,
            working_state=working_state,
            workers=workers,
            queue_limit_s=QUEUE_LIMIT_S,
        )
        looks = count()
        self._leader = Leader(
            None,  # type: ignore[arg-type]
            connection=self.connection,
            workers=workers,
            reaper=self.reaper,
            reconciler=reconciler,
            eraser=Eraser(
                erasing=Erasing(self.database, TENANT, PROJECT),
                turns=self.turns,
                queue=self.queue,
                remains=Remains(self.connection, KEYS),
                clock=self.stores.clock,
            ),
            clock=lambda: 10.0 * next(looks),  # every look is one of those that reconcile
        )
        self.round: asyncio.Task[None] | None = None

    @property
    def working(self) -> bool:
        return self.round is not None and not self.round.done()

    def look(self) -> None:
        """One round, as Leader.run does it."""

        async def once() -> None:
            try:
                await self._leader.once()
            except (StoreUnavailable, EpochMismatch):
                self.reaper.hold_off()

        if not self.working:
            self.round = self.actor.spawn(once())
