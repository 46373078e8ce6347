"""Steps of several that meet in the worst order: between any two of them a process may die or stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import StoreServer
from tests.integration.proc.conftest import KEYS, Client, Deployment
from tests.integration.proc.test_reaper import LEASE_S, Silent, claim_silently, silent

from kdcube.postgres.database import open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.locks import Leadership
from kdcube.postgres.records import Ending, Finished, HistoryTurn
from kdcube.postgres.turns import Turns
from kdcube.proc.bundles.jobs import TurnJob, TurnSink
from kdcube.proc.bundles.seat import Seat
from kdcube.proc.bundles.turns import RunningTurn
from kdcube.proc.reaper import Reaper
from kdcube.proc.reconciler import Reconciler
from kdcube.protocol.errors import EpochMismatch
from kdcube.protocol.turns import Policy, TurnEnvelope, TurnState
from kdcube.redis.connection import ServerError
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.queue import Claim, ExpiredLease, Fenced, Opened, Queue
from kdcube.redis.renewal import Renewal
from kdcube.redis.steer import Steers
from kdcube.redis.wire import Argument
from kdcube.redis.workers import Workers
from kdcube.telemetry import failpoints

__all__ = ["silent"]  # the fixture

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    failpoints.install("")


async def begun(silent: Silent) -> TurnEnvelope:
    await silent.start()
    assert isinstance(await silent.open(), Opened)
    return silent.claim.envelope


# --- steers -----------------------------------------------------------------------------------------------------------


async def test_a_steer_whose_worker_died_between_its_two_commits_holds_up_nothing(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    turn = await begun(silent)
    steer = await client.send("and this", conversation="c1", policy=Policy.STEER)
    assert await client.turns.apply_steers(turn.turn_id, silent.claim.claim_id, [steer.turn_id]) == {steer.turn_id}
    waiting = await client.send("next", conversation="c1")
    async with deployment.proc(lease_s=LEASE_S):
        assert (await client.ended(turn.turn_id)).state is TurnState.INTERRUPTED
        assert await client.answer(waiting.turn_id) == "next"
    row = await client.turns.get(steer.turn_id)
    assert row is not None
    assert row.state is TurnState.APPLIED


async def test_a_steer_that_was_applied_but_not_taken_is_the_next_turn(
    deployment: Deployment, client: Client, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcube.proc.reconciler.READMIT_AFTER_MS", -1)
    turn, claim_id, epoch = await begun(silent), silent.claim.claim_id, await client.epoch()
    steer = await client.send("and this", conversation="c1", policy=Policy.STEER)
    await client.turns.apply_steers(turn.turn_id, claim_id, [steer.turn_id])
    await Steers(client.connection, KEYS).applied(turn, claim_id, [steer.turn_id], epoch=epoch)
    await client.turns.return_steers(turn.turn_id, claim_id, [steer.turn_id])
    ending = Ending(turn_id=turn.turn_id, claim_id=claim_id, state=TurnState.COMPLETED, ended_ms=1)
    assert await client.turns.finish(ending) == Finished([steer.turn_id], [])
    async with open_database(deployment.database_url) as database, Turns(database, "local", "main") as turns:
        reconciler = Reconciler(
            turns=turns,
            epochs=Epochs(database, "local", "main"),
            queue=client.queue,
            working_state=client.working_state,
            workers=Workers(client.connection, KEYS),
            queue_limit_s=3600,
        )
        await reconciler.reconcile(epoch)
    assert (await client.queue.positions([steer.turn_id], epoch=epoch))[0].state is TurnState.QUEUED


STEPS_OF_A_STEER = [f"proc.{step}.{when}" for step in ("steers", "apply", "applied") for when in ("before", "after")]


@pytest.mark.parametrize("step", STEPS_OF_A_STEER)
async def test_a_lost_reply_loses_and_doubles_no_steer(deployment: Deployment, client: Client, step: str) -> None:
    async with deployment.proc():
        turn = await client.send(conversation="c1", echo={"deltas": 100, "delay_ms": 10})
        await client.until(turn.turn_id, 3)
        failpoints.install(f"{step}=drop:1")
        steer = await client.send("hello", conversation="c1", policy=Policy.STEER)
        assert ((await client.ended(turn.turn_id)).answer or "").count("[steer: hello]") == 1
        assert failpoints.visits(step) >= 1
        row = await client.turns.get(steer.turn_id)
        assert row is not None
        assert row.state is TurnState.APPLIED


async def test_a_steer_of_a_cancelled_turn_whose_worker_died_is_cancelled(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    turn = await begun(silent)
    steer = await client.send("and this", conversation="c1", policy=Policy.STEER)
    await client.turns.cancel(turn.turn_id, "ada", 1)
    async with deployment.proc(lease_s=LEASE_S):
        assert (await client.ended(turn.turn_id)).state is TurnState.CANCELLED
    assert await client.receipts(steer.turn_id) == ["accepted", "cancelled"]


# --- the reaper -------------------------------------------------------------------------------------------------------


class StoodStill(Queue):
    """The queue of a reaper that was stopped between its question and its next step."""

    stale: ExpiredLease

    async def expired(self, *, epoch: int, limit: int = 100) -> list[ExpiredLease]:
        return [self.stale]


@pytest.mark.parametrize("max_attempts", [1, 9])
async def test_a_reaper_that_stood_still_touches_no_later_attempt(
    client: Client, silent: Silent, max_attempts: int
) -> None:
    turn, epoch = await begun(silent), await client.epoch()
    first = silent.claim.claim_id
    assert await client.turns.requeue(turn.turn_id, first)
    assert await client.queue.release(turn.turn_id, first, epoch=epoch)
    second = await claim_silently(client)
    assert (await second.start()).attempt == 2
    queue = StoodStill(client.connection, KEYS)
    queue.stale = ExpiredLease(turn.turn_id, first, TurnState.RUNNING)
    await Reaper(turns=client.turns, queue=queue, logs=client.logs, max_attempts=lambda _: max_attempts).reap(epoch)
    row = await client.turns.get(turn.turn_id)
    assert row is not None
    assert (row.state, row.claim_id) == (TurnState.RUNNING, second.claim.claim_id)


@pytest.mark.parametrize("stored", ["hel", "hello", "hello again"])
async def test_a_reaper_closes_a_log_only_if_it_says_what_is_stored(
    client: Client, silent: Silent, stored: str
) -> None:
    turn, epoch = await begun(silent), await client.epoch()
    await silent.say("hel", seq=1, tail=1)
    ending = Ending(
        turn_id=turn.turn_id,
        claim_id=silent.claim.claim_id,
        state=TurnState.INTERRUPTED,
        ended_ms=1,
        text_by_marker={"answer": stored},
    )
    await client.turns.finish(ending)
    await silent.say("lo", seq=2, tail=2)
    queue = StoodStill(client.connection, KEYS)
    queue.stale = ExpiredLease(turn.turn_id, silent.claim.claim_id, TurnState.RUNNING)
    await Reaper(turns=client.turns, queue=queue, logs=client.logs, max_attempts=lambda _: 1).reap(epoch)
    page = await client.logs.read(turn.turn_id, 0)
    assert (page.exists, page.closed) == (stored == "hello", stored == "hello")


async def test_a_worker_that_slept_before_its_start_takes_no_later_start_back(
    deployment: Deployment, client: Client
) -> None:
    failpoints.install("proc.start.before=pause")
    async with deployment.proc(KDCUBE_SLOTS="1") as proc:
        turn, epoch = await client.send(), await client.epoch()
        while not failpoints.visits("proc.start.before"):
            await asyncio.sleep(0.01)
        ((sleeper, _),) = (await client.connection.call("HGETALL", KEYS.claims)).items()
        assert await client.queue.release(turn.turn_id, sleeper.decode(), epoch=epoch)
        other = await claim_silently(client)
        await begun(other)
        failpoints.release("proc.start.before")
        while proc.worker.running:
            await asyncio.sleep(0.01)
        row = await client.turns.get(turn.turn_id)
        assert row is not None
        assert (row.state, row.attempt, row.claim_id) == (TurnState.RUNNING, 1, other.claim.claim_id)


# --- a replica that lags, and other failovers -------------------------------------------------------------------------


async def test_a_turn_of_which_a_stale_replica_does_not_know_runs_once(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    turn = await begun(silent)
    # The replica that took over lags: to it the turn still waits, and its epoch is the old one.
    await client.queue.release(turn.turn_id, silent.claim.claim_id, epoch=await client.epoch())
    await client.connection.call("DEL", KEYS.log(turn.turn_id), KEYS.log_meta(turn.turn_id))
    await client.connection.call("SET", KEYS.server, "the run id of the server before")
    failpoints.install("proc.release.before=drop@1000000,proc.requeue.before=drop@1000000")
    async with Leadership(deployment.database_url, "local", "main", "maintenance") as leadership:
        assert await leadership.try_acquire()  # nobody has noticed yet
        async with deployment.proc(lease_s=LEASE_S):
            while not failpoints.visits("proc.release.before") and not failpoints.visits("proc.requeue.before"):
                await asyncio.sleep(0.01)
            await leadership.release()
            row = await client.ended(turn.turn_id)
            assert (row.state, row.attempt) == (TurnState.INTERRUPTED, 1)


async def test_a_failover_under_a_waiting_worker_leaves_it_claiming(deployment: Deployment, client: Client) -> None:
    async with deployment.proc() as proc:
        await client.epoch()
        clients = (await client.connection.call("CLIENT", "LIST")).decode().splitlines()
        (waiting,) = [line for line in clients if "name=proc-1-doorbell " in line]
        number = waiting.split()[0].removeprefix("id=")
        while not await client.connection.call("CLIENT", "UNBLOCK", number, "ERROR"):  # as a demoted server does
            await asyncio.sleep(0.01)
        turn = await client.send("still there")
        assert await client.answer(turn.turn_id) == "still there"
        assert not proc.worker.draining


async def test_an_error_in_place_of_the_epoch_does_not_end_the_watch(client: Client) -> None:
    async with EpochWatch(client.connection, client.subscriber, KEYS).watching() as watch:
        call, refused = client.connection.call, asyncio.Event()

        def refuse(*args: Argument) -> asyncio.Future[Any]:
            refused.set()
            return call("EVAL", "return redis.error_reply('NOPERM not now')", 0)

        client.connection.call = refuse  # type: ignore[method-assign]
        watch.suspect()
        await refused.wait()
        client.connection.call = call  # type: ignore[method-assign]
        await call("SET", KEYS.epoch, 7)
        assert await watch.wait_for() == 7


async def test_leases_are_renewed_while_the_memory_is_full(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    turn, epoch = await begun(silent), await client.epoch()
    renewal = Renewal(
        deployment.valkey_url,
        KEYS,
        worker_id="silent",
        lease_s=LEASE_S,
        heartbeat_ttl_s=15,
        epoch=lambda: epoch,
        describe=lambda: (1, {}),
    )
    await client.connection.call("CONFIG", "SET", "maxmemory", 1)
    try:
        renewed = await asyncio.to_thread(renewal.renew, {turn.turn_id: silent.claim.claim_id})
    finally:
        await client.connection.call("CONFIG", "SET", "maxmemory", 0)
        renewal.close()
    assert renewed is not None
    assert not renewed.lost


# --- the end of a worker ----------------------------------------------------------------------------------------------


async def test_a_drain_does_not_wait_for_an_epoch(
    deployment: Deployment, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with deployment.proc() as proc:
        await client.epoch()
        claiming, go_on = asyncio.Event(), asyncio.Event()

        async def refused(*_: object, **__: object) -> list[Claim]:
            claiming.set()
            await go_on.wait()
            raise EpochMismatch

        async def never(*_: object) -> int:
            return await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(Queue, "claim", refused)
        monkeypatch.setattr(EpochWatch, "wait_for", never)
        proc.worker.room_changed()
        await claiming.wait()
        draining = asyncio.create_task(proc.worker.drain(1))
        while not proc.worker.draining:
            await asyncio.sleep(0)
        go_on.set()
        async with asyncio.timeout(10):
            await draining


async def test_what_a_drain_gives_up_keeps_no_process(
    deployment: Deployment, client: Client, postgres_server: StoreServer
) -> None:
    async with deployment.proc("proc-1", lease_s=LEASE_S) as proc:
        turn = await client.send(echo={"deltas": 100_000, "delay_ms": 20})
        await client.until(turn.turn_id, 3)
        postgres_server.kill()
        await proc.worker.drain(0, interrupt_s=0)
    postgres_server.restart()
    async with deployment.proc("proc-2", lease_s=LEASE_S):
        assert (await client.ended(turn.turn_id)).state is TurnState.INTERRUPTED


async def test_a_worker_that_can_claim_no_more_says_so(
    deployment: Deployment, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> list[Claim]:
        raise ServerError("NOPERM", "no permissions")

    monkeypatch.setattr(Queue, "claim", broken)
    async with deployment.proc() as proc:
        assert "no permissions" in await proc.probes.first_broken()


# --- an attempt -----------------------------------------------------------------------------------------------------


async def test_an_epoch_that_another_suspects_breaks_no_start(
    deployment: Deployment, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Queue.start
    async with deployment.proc() as proc:

        async def suspected(*args: Any, **kwargs: Any) -> Opened | Fenced:
            opened = await start(*args, **kwargs)
            proc.probes.epoch_watch.suspect()
            return opened

        monkeypatch.setattr(Queue, "start", suspected)
        turn = await client.send("one two")
        row = await client.ended(turn.turn_id)
        assert (row.state, row.answer) == (TurnState.COMPLETED, "one two")


async def test_a_turn_whose_lease_is_lost_before_its_bundle_has_it_runs_later(
    deployment: Deployment, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, lost = Turns.history, list[str]()
    async with deployment.proc() as proc:
        first = await client.send("one")
        await client.ended(first.turn_id)

        async def late(self: Turns, parent: str | None, limit_turns: int = 50) -> list[HistoryTurn]:
            turns = await history(self, parent, limit_turns)
            if not lost:
                lost.append(second.turn_id)
                row = await self.get(second.turn_id)
                assert row is not None
                proc.worker.lost(second.turn_id, row.claim_id or "")
            return turns

        monkeypatch.setattr(Turns, "history", late)
        second = await client.send("two", conversation=first.conversation_id)
        row = await client.ended(second.turn_id)
        assert (row.state, row.answer) == (TurnState.COMPLETED, "two")
        assert lost


async def test_another_attempt_begins_when_no_code_of_the_last_can_run(
    deployment: Deployment, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    requeue, seat_start = Turns.requeue, Seat.start
    begun_in: list[RunningTurn] = []
    gone: list[bool] = []

    def start(self: Seat, job: TurnJob, sink: TurnSink) -> RunningTurn:
        begun_in.append(seat_start(self, job, sink))
        return begun_in[-1]

    async def recorded(self: Turns, *args: Any, **kwargs: Any) -> bool:
        gone.append(begun_in[0].exited.done())
        return await requeue(self, *args, **kwargs)

    monkeypatch.setattr(Seat, "start", start)
    monkeypatch.setattr(Turns, "requeue", recorded)
    async with deployment.proc(max_attempts=2) as proc:
        turn = await client.send(echo={"deltas": 20, "delay_ms": 20})
        await client.until(turn.turn_id, 3)
        row = await client.turns.get(turn.turn_id)
        assert row is not None
        proc.worker.lost(turn.turn_id, row.claim_id or "")
        assert (await client.ended(turn.turn_id)).state is TurnState.COMPLETED
    assert gone == [True]
