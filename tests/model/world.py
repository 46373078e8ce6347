"""Real Valkey and PostgreSQL with everybody who works on them, one granted step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import asyncpg
from tests.integration.redis.partition import Partition
from tests.model.actors import Actor, Fate, Step, adopting, lost
from tests.model.clock import SteppedLoop
from tests.model.hosts import GRACE_S, Run
from tests.model.ledger import Ledger, Message, a_row
from tests.model.services import (
    ATTEMPTS,
    KEYS,
    LEASE_S,
    PATIENCE_S,
    PROJECT,
    RUNNING_PER_USER,
    TENANT,
    Ingress,
    Maintenance,
    Service,
    Stores,
    WorkerService,
)

from kdcube.gateway.errors import RequestError
from kdcube.postgres.database import Database, server_settings
from kdcube.proc.bundles.jobs import TurnJob, TurnSink
from kdcube.protocol.errors import EpochMismatch, InvalidInput, StoreUnavailable
from kdcube.protocol.turns import TurnEnvelope
from kdcube.redis.connection import Connection
from kdcube.redis.endpoint import parse_endpoint
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.scripts import Script

Request = Callable[[Ingress], None]
"""What a client asks of an ingress."""
NAP_S = 1.0
"""After each step so much time passes: no retry waits longer, and every limit does."""
LONG_S = GRACE_S + 100.0
_ROWS = (
    "select turn_id, state, attempt, claim_id, answer, steer_of, conversation_id, message, admitted_order"
    " from turns where tenant = $1 and project = $2 order by admitted_order, turn_id"
)


class _OneConnection:
    """As a pool: nobody ever asks for two at a time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def get_idle_size(self) -> int:
        return 1

    @asynccontextmanager
    async def _acquire(self) -> AsyncGenerator[asyncpg.Connection]:
        yield self._connection

    def acquire(self, timeout: float | None = None) -> Any:
        return self._acquire()


class Backend:
    """The stores and the loop, for as many worlds as there are examples."""

    def __init__(self, valkey_url: str, database_url: str) -> None:
        self.url = valkey_url
        self.loop = SteppedLoop()
        self.loop.set_task_factory(adopting)
        self.loop.set_exception_handler(lambda loop, context: None)  # actors report what ends their tasks
        self._database_url = database_url
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self.connection = Connection(parse_endpoint(self.url), name="model", deadline_s=None, max_in_flight=10_000)
        await self.connection.connect()
        settings = server_settings("model", statement_timeout_s=PATIENCE_S)
        self._postgres = await asyncpg.connect(
            self._database_url, server_settings=settings, max_cached_statement_lifetime=0
        )
        self.database = Database(_OneConnection(self._postgres), asyncio.Event().wait)  # type: ignore[arg-type]
        self.names: dict[str, str] = {}
        for file in (resources.files("kdcube.redis") / "lua").iterdir():
            if not file.name.startswith("_"):
                script = Script(file.name.removesuffix(".lua"))
                self.names[script.sha] = script.name

    async def empty(self) -> None:
        await self.connection.call("FLUSHALL")
        for sha, name in self.names.items():
            assert await self.connection.call("SCRIPT", "LOAD", Script(name).text) == sha.encode()
        await self._postgres.execute("delete from turns; delete from conversations; delete from epochs")

    def close(self) -> None:
        self.loop.run_until_complete(self.connection.close())
        self.loop.run_until_complete(self._postgres.close())
        self.loop.close()


class World:
    """One example. ``say`` is told of everything that happens."""

    def __init__(self, backend: Backend, say: Callable[[str], None]) -> None:
        self._backend = backend
        self.say = say
        self.ledger = Ledger(ATTEMPTS)
        self.clock = 0.0
        self.life = 1
        """Of Valkey: another one has another run id."""
        self._lapsed: set[tuple[str, str]] = set()
        """Claims, by worker, whose leases ran out before the worker was done with them."""
        self._wrong: list[AssertionError] = []
        self.late: list[Step] = []
        self._under_way: set[asyncio.Future[Any]] = set()
        self._requests: list[tuple[Message | str, asyncio.Task[Any]]] = []
        self._saved: list[tuple[bytes, int, bytes]] | None = None
        self.stores = Stores(backend.url, self._call, self._direct, backend.database, backend.names, lambda: self.clock)
        self.partition = Partition(backend.connection, backend.url, running_per_user=RUNNING_PER_USER, lease_s=LEASE_S)
        self.logs = EventLogs(backend.connection, KEYS)
        self.ingresses: dict[str, Ingress] = {}
        self.workers: dict[str, WorkerService] = {}
        self.leaders: dict[str, Maintenance] = {}

    async def open(self) -> None:
        await self._backend.empty()
        self.leaders["L1"] = Maintenance("L1", self.stores)
        await self.quiet()
        self.leaders["L1"].actor.do(self.leaders["L1"].look)
        await self.quiet()
        await self.finish(self.leaders["L1"].actor)
        for name in ("I1", "I2"):
            self.ingresses[name] = Ingress(name, self.stores)
        for name in ("W1", "W2"):
            self.workers[name] = WorkerService(name, self.stores, self._began)
        await self.quiet()

    @property
    def services(self) -> list[Service]:
        return [*self.ingresses.values(), *self.workers.values(), *self.leaders.values()]

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _call(self, *args: Any) -> Any:
        reply = await self._backend.connection.call(*args)
        if args[0] == "INFO":  # another life has another run id
            reply = reply.replace(b"run_id:", b"run_id:%d." % self.life)
        return reply

    def _direct(self, *args: Any) -> asyncio.Future[Any]:
        future = self._backend.connection.call(*args)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    async def quiet(self, naps: int = 1) -> None:
        """Until nobody can go on but by a step; naps are slept through."""
        for nap in range(naps + 1):
            if nap:
                self._backend.loop.skip(NAP_S)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            while self._backend.loop.busy or self._under_way:
                if self._under_way:
                    await asyncio.wait(set(self._under_way))
                else:
                    await asyncio.sleep(0)

    async def grant(self, actor: Actor, step: Step, fate: Fate = Fate.DONE) -> None:
        """One step of an actor, and what follows from it."""
        actor.steps.remove(step)
        gone = step.answer.cancelled()
        self.say(f"{actor.name}: {step.label}{'' if fate is Fate.DONE else f' ({fate.value})'}{' for nobody' * gone}")
        if fate is Fate.LATE:
            self.late.append(step)
        if fate in (Fate.DONE, Fate.LOST_REPLY):
            try:
                reply = await step.run()
            except Exception as error:
                if fate is Fate.DONE and not gone:
                    step.answer.set_exception(error)
            else:
                if fate is Fate.DONE and not gone:
                    step.answer.set_result(reply)
            if step.label.startswith("postgres"):
                await self._see_rows()
        if fate is not Fate.DONE and not gone:
            step.answer.set_exception(lost(step.label.split()[0]))
        await self.quiet()
        self.look_at_requests()

    async def come_late(self, pick: int) -> None:
        """What the network had kept reaches its store."""
        step = self.late.pop(pick % len(self.late))
        self.say(f"late: {step.label}")
        try:
            await step.run()
        except Exception as error:  # told to nobody
            self.say(f"  {error}")
        await self._see_rows()

    async def finish(self, actor: Actor, limit: int = 400) -> None:
        """Grants all that an actor asks for."""
        for _ in range(limit):
            if not actor.steps:
                return
            await self.grant(actor, actor.steps[0])
        raise AssertionError(f"{actor.name} comes to no end")

    # --- clients ------------------------------------------------------------------------------------------------------

    def sending(self, message: Message) -> Request:
        def send(ingress: Ingress) -> None:
            message.under_way += 1
            self._request(ingress, message, ingress.accepting.accept(message.envelope))

        return send

    def cancelling(self, turn: TurnEnvelope) -> Request:
        return lambda ingress: self._request(ingress, turn.turn_id, ingress.cancelling.turn(turn.user_id, turn.turn_id))

    def stopping(self, user: str, conversation: str, *, delete: bool) -> Request:
        """Cancels all that is unfinished in a conversation, or hides it."""

        def stop(ingress: Ingress) -> None:
            work = ingress.delete if delete else ingress.cancelling.conversation
            self._request(ingress, "", work(user, conversation))

        return stop

    def _request(self, ingress: Ingress, what: Message | str, work: Any) -> None:
        self._requests.append((what, ingress.actor.spawn(work)))

    def look_at_requests(self) -> None:
        """What clients have been told by now."""
        for request in [request for request in self._requests if request[1].done()]:
            self._requests.remove(request)
            what, task = request
            error = None if task.cancelled() else task.exception()
            if isinstance(what, Message):
                self._answered(what, task, error)
            elif what and not task.cancelled() and error is None:
                row = self.ledger.rows.get(what)
                if (
                    row is not None
                    and row.state == "cancelled"
                    and not any(r.turn_id == what for r in self.ledger.runs)
                ):
                    self.say(f"  {row.message} is cancelled")
                    self.ledger.cancelled.add(what)

    def _answered(self, message: Message, task: asyncio.Task[Any], error: BaseException | None) -> None:
        message.under_way -= 1
        name = message.envelope.text
        match error:
            case None if not task.cancelled():
                acceptance = task.result()
                assert acceptance.turn_id == message.envelope.turn_id
                if message.accepted_at is None:
                    message.accepted_at = self.ledger.now
                self.say(f"  {name} is accepted{f' as a steer ({acceptance.receipt})' if acceptance.receipt else ''}")
            case RequestError(error="outcome_unknown") | StoreUnavailable() | None:
                message.unknown = True
                self.say(f"  what became of {name} is not known")
            case RequestError() | EpochMismatch() | InvalidInput():
                message.refused.append(getattr(error, "error", str(error)))
                self.say(f"  {name} is refused: {message.refused[-1]}")
            case _:
                raise AssertionError(f"{name} was answered by {error!r}") from error

    # --- bundles ------------------------------------------------------------------------------------------------------

    def _began(self, worker: WorkerService, job: TurnJob, sink: TurnSink) -> Run:
        envelope = job.envelope
        run = Run(envelope.turn_id, job.attempt, envelope.conversation_id, sink.claim_id, envelope.text)  # type: ignore[attr-defined]
        run.lapsed = (worker.worker_id, run.claim_id) in self._lapsed
        self.say(f"  {envelope.text} begins, attempt {job.attempt}")
        try:
            self.ledger.begins(run, envelope)
        except AssertionError as error:  # not to be caught by the product
            self._wrong.append(error)
        return run

    # --- time and faults ----------------------------------------------------------------------------------------------

    async def a_lease_passes(self, cut: set[str]) -> None:
        """Who stands still, or is in ``cut`` (off from Valkey), renews nothing."""
        self.clock += LEASE_S
        renewed = [worker for worker in self._ready_workers if not worker.stalled and await self._renews(worker, cut)]
        await self.quiet(0)
        await self._expire({claim for worker in renewed for claim in worker.keeper.claims})
        for worker in self._ready_workers:
            self._lapse(worker)
        await self.quiet(0)

    @property
    def _ready_workers(self) -> list[WorkerService]:
        return [worker for worker in self.workers.values() if worker.ready]

    async def _renews(self, worker: WorkerService, cut: set[str]) -> bool:
        renewed = False
        if worker.name not in cut:
            worker.actor.do(worker.subscriber.again)
            await self.quiet(0)
            renewed = worker.actor.do(worker.keeper.renew)
        worker.actor.do(worker.keeper.expire)
        return renewed

    async def _expire(self, kept: set[tuple[str, str]]) -> None:
        """In Valkey, all leases but those of these turns and claims; of one that has ended only the turn is known."""
        call = self._backend.connection.call
        claims = {turn: claim for claim, turn in (await call("HGETALL", KEYS.claims)).items()}
        turns_kept = {turn for turn, _ in kept}
        for turn in sorted(await call("ZRANGE", KEYS.leases, "0", "-1")):
            claim = claims.get(turn)
            held = turn.decode() in turns_kept if claim is None else (turn.decode(), claim.decode()) in kept
            if not held:
                await call("ZADD", KEYS.leases, "XX", 1, turn)

    def _lapse(self, worker: WorkerService) -> None:
        """What a worker that did not renew has lost, whether or not it knows."""
        renewed = worker.keeper.renewed_at(self.clock)
        for claim in worker.claims - renewed:
            self._lapsed.add((worker.worker_id, claim))
        for process in worker.pool.processes:
            # Without a pulse it ends itself; with an abandoned turn it is killed: both within the lease's margin.
            lost = any((worker.worker_id, run.claim_id) in self._lapsed for _, run in process.runs.values())
            if worker.stalled or lost:
                worker.actor.do(process.die)

    async def rows_age(self, seconds: float) -> None:
        await self._backend.database.fetch(
            "update turns set queued_ms = queued_ms - $1::bigint where state in ('queued', 'steering', 'applied')",
            int(seconds * 1000),
        )

    async def empty_valkey(self) -> None:
        """It was started again, with nothing."""
        await self._backend.connection.call("FLUSHALL")
        await self._another_life()

    async def save_valkey(self) -> None:
        """What a replica has that falls behind from now on."""
        call = self._backend.connection.call
        keys = sorted(await call("KEYS", "*"))
        self._saved = [(key, max(0, await call("PTTL", key)), await call("DUMP", key)) for key in keys]

    async def fall_back(self) -> None:
        """The replica that fell behind takes over."""
        assert self._saved is not None
        call = self._backend.connection.call
        await call("FLUSHALL")
        for key, ttl, value in self._saved:
            await call("RESTORE", key, ttl, value)
        await self._another_life()

    @property
    def saved(self) -> bool:
        return self._saved is not None

    async def _another_life(self) -> None:
        self.life += 1
        self.ledger.lost_at = self.ledger.now
        for worker in self.workers.values():
            if worker.ready and not worker.stalled:
                worker.actor.do(worker.keeper.renew)
        for service in self.services:
            if not service.stalled:
                service.actor.do(service.subscriber.again)
        await self.quiet(0)

    async def crash(self, service: Service, sent: bool) -> None:
        """kill -9; ``sent``: what it had just asked for is done all the same."""
        self._look_at(service)
        steps = service.crash()
        if sent:
            self.late += steps
        await self.quiet(0)
        assert service.actor.gone, f"{service.name} lives on: {service.actor._tasks}"
        self.look_at_requests()

    async def replace(self, name: str) -> None:
        """A new process in the place of one that is gone."""
        if name in self.ingresses:
            self.ingresses[name] = Ingress(name, self.stores)
        elif name in self.workers:
            self.workers[name] = WorkerService(name, self.stores, self._began)
        else:
            self.leaders[name] = Maintenance(name, self.stores)
        await self.quiet(0)

    async def long(self) -> None:
        """So long that every timer fires."""
        self._backend.loop.skip(LONG_S)
        await self.quiet()

    # --- what must be true --------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """After every step."""
        self.ledger.now += 1
        for wrong in self._wrong:
            raise wrong
        for service in self.services:
            self._look_at(service)
        await self.partition.check(lossy=True)
        await asyncio.gather(*(self._see_log(turn_id) for turn_id in self.ledger.rows))

    @staticmethod
    def _look_at(service: Service) -> None:
        for error in service.actor.broken:
            raise AssertionError(f"{service.name} broke: {error!r}") from error

    async def _see_rows(self) -> None:
        records = await self._backend.database.fetch(_ROWS, TENANT, PROJECT)
        self.ledger.see_rows([a_row(record) for record in records])

    async def check_what_is_left(self) -> None:
        """After the end: what turns leave goes away by itself."""
        call = self._backend.connection.call
        for key in await call("KEYS", "*"):
            if any(f":{kind}:" in key.decode() for kind in ("log", "logmeta", "done", "feed", "live")):
                assert await call("PTTL", key) > 0, f"{key} stays for ever"

    async def _see_log(self, turn_id: str) -> None:
        lines: list[bytes] = []
        while True:
            page = await self.logs.read(turn_id, len(lines))
            lines += page.lines
            if not page.lines:
                break
        if page.exists:
            self.ledger.see_log(turn_id, self.life, page.incarnation, lines, page.tail, page.closed)
