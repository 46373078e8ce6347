"""Steps of several that meet in the worst order: between any two of them a process may die or stand still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.proc.conftest import KEYS, Client, Deployment
from tests.integration.proc.test_reaper import LEASE_S, Silent, claim_silently, silent

from kdcube.postgres.database import open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import Ending, Finished
from kdcube.postgres.turns import Turns
from kdcube.proc.reaper import Reaper
from kdcube.proc.reconciler import Reconciler
from kdcube.protocol.turns import Policy, TurnEnvelope, TurnState
from kdcube.redis.queue import ExpiredLease, Opened, Queue
from kdcube.redis.steer import Steers
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
            queue_limit_s=3600,
        )
        await reconciler.reconcile(epoch)
    assert (await client.queue.positions([steer.turn_id], epoch=epoch))[0].state is TurnState.QUEUED


@pytest.mark.parametrize("step", ["proc.apply.before", "proc.apply.after", "proc.applied.before", "proc.applied.after"])
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
