"""Valkey's working state follows PostgreSQL: rebuilt, completed, and cleared of what waited too long."""

from __future__ import annotations

import pytest
from tests.integration.proc.conftest import KEYS, Client, Deployment

from kdcube.postgres.database import open_database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import Admission, NotStarted, Started, StartRequest
from kdcube.postgres.turns import Turns
from kdcube.proc.reconciler import Reconciler
from kdcube.protocol.turns import TurnState
from kdcube.redis.epoch import WorkingState
from kdcube.redis.queue import Queue
from kdcube.redis.server import server_facts
from kdcube.redis.workers import Workers

pytestmark = pytest.mark.anyio


@pytest.fixture
async def reconciler(deployment: Deployment, client: Client):
    async with open_database(deployment.database_url) as database, Turns(database, "local", "main") as turns:
        await Workers(client.connection, KEYS).beat("w", slots=4, info={})
        yield Reconciler(
            turns=turns,
            epochs=Epochs(database, "local", "main"),
            queue=client.queue,
            working_state=client.working_state,
            workers=Workers(client.connection, KEYS),
            queue_limit_s=3600,
        )


async def ensure(client: Client, reconciler: Reconciler) -> int:
    return await reconciler.ensure_epoch(await server_facts(client.connection), on_rebuilt=lambda: None)


async def claim(client: Client, claim_id: str):
    claims = await client.queue.claim(
        epoch=await client.epoch(), worker_id="w", revision="r", room={"echo@1.0.0": 1}, claim_ids=[claim_id]
    )
    return claims[0] if claims else None


def start_request(claim, epoch: int) -> StartRequest:
    return StartRequest(claim.envelope, claim.order, claim.accepted_ms, claim.claim_id, "w", "v", epoch)


async def test_an_epoch_is_made_once(client: Client, reconciler: Reconciler) -> None:
    assert await ensure(client, reconciler) == await ensure(client, reconciler) == await client.epoch()


@pytest.mark.parametrize("loss", ["empty", "another server", "demoted and promoted"])
async def test_a_lost_working_state_is_rebuilt_in_its_old_order(
    client: Client, reconciler: Reconciler, loss: str
) -> None:
    epoch = await ensure(client, reconciler)
    sent = [await client.send(f"m{n}", user=f"u{n}") for n in range(3)]
    parked = await client.send("later", user="u0", conversation=sent[0].conversation_id)
    if loss == "empty":
        await client.connection.call("FLUSHALL")
        await Workers(client.connection, KEYS).beat("w", slots=4, info={})
    elif loss == "demoted and promoted":  # between the two another server took what this one does not know
        await client.connection.call("REPLICAOF", "127.0.0.1", "1")
        await client.connection.call("REPLICAOF", "NO", "ONE")
    else:  # a replica that took over has the data, but another run id
        await client.connection.call("SET", KEYS.server, "the run id of the server before")
    assert await ensure(client, reconciler) > epoch
    claimed = [await claim(client, f"c{n}") for n in range(4)]
    assert [c and c.envelope.turn_id for c in claimed] == [*(turn.turn_id for turn in sent), None]
    assert parked.turn_id not in {c.envelope.turn_id for c in claimed if c}


async def test_a_start_of_the_epoch_before_is_refused(client: Client, reconciler: Reconciler) -> None:
    epoch = await ensure(client, reconciler)
    await client.send("x")
    claimed = await claim(client, "c")
    await client.connection.call("FLUSHALL")
    await ensure(client, reconciler)
    late = await client.turns.start(start_request(claimed, epoch))
    assert isinstance(late, NotStarted)
    assert late.reason == "stale_epoch"


async def test_a_running_turn_keeps_its_claim_and_its_conversation(client: Client, reconciler: Reconciler) -> None:
    epoch = await ensure(client, reconciler)
    running = await client.send("x", conversation="c1")
    claimed = await claim(client, "fence")
    assert isinstance(await client.turns.start(start_request(claimed, epoch)), Started)
    await client.send("y", conversation="c1")
    await client.connection.call("FLUSHALL")
    await Workers(client.connection, KEYS).beat("w", slots=4, info={})
    epoch = await ensure(client, reconciler)
    assert await claim(client, "other") is None
    reopened = await client.logs.reopen(
        running.turn_id, "fence", epoch=epoch, seq=1, line=b"snapshot {}", head=b"", incarnation=2
    )
    assert reopened.incarnation == 2


async def test_a_queued_row_that_valkey_lacks_is_put_back(
    client: Client, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcube.proc.reconciler.READMIT_AFTER_MS", -1)
    epoch = await ensure(client, reconciler)
    turn = await client.send("x")
    record = await client.turns.get(turn.turn_id)
    assert record is not None
    assert await client.admission.withdraw(turn, epoch=epoch, nonce="another") is False
    # As if Valkey had lost this one admission.
    lost = await client.send("y", user="other")
    state = WorkingState(client.connection, KEYS)
    assert await state.begin(epoch) is False
    await client.connection.call("HDEL", KEYS.turns, lost.turn_id)
    await reconciler.reconcile(epoch)
    assert (await client.queue.positions([lost.turn_id], epoch=epoch))[0].state is TurnState.QUEUED


async def test_what_waited_too_long_fails_visibly(
    deployment: Deployment, client: Client, reconciler: Reconciler
) -> None:
    epoch = await ensure(client, reconciler)
    turn = await client.send("x")
    async with open_database(deployment.database_url) as database, Turns(database, "local", "main") as turns:
        impatient = Reconciler(
            turns=turns,
            epochs=Epochs(database, "local", "main"),
            queue=Queue(client.connection, KEYS),
            working_state=client.working_state,
            workers=Workers(client.connection, KEYS),
            queue_limit_s=-1,
        )
        await impatient.reconcile(epoch)
    row = await client.ended(turn.turn_id)
    assert row.state is TurnState.FAILED
    assert row.error is not None
    assert row.error["code"] == "queue_timeout"
    assert await claim(client, "c") is None


async def test_a_turn_whose_bundle_nobody_offers_fails_visibly(
    deployment: Deployment, client: Client, reconciler: Reconciler
) -> None:
    epoch = await ensure(client, reconciler)
    orphan = await client.send("x", bundle="gone@1")
    served = await client.send("y", user="bob")
    await Workers(client.connection, KEYS).beat("w", slots=4, info={"bundles": ["echo@1.0.0"]})
    await reconciler.reconcile(epoch)
    assert (await client.turns.states([orphan.turn_id]))[orphan.turn_id] is TurnState.QUEUED  # it has a minute
    async with open_database(deployment.database_url) as database, Turns(database, "local", "main") as turns:
        await Reconciler(
            turns=turns,
            epochs=Epochs(database, "local", "main"),
            queue=client.queue,
            working_state=client.working_state,
            workers=Workers(client.connection, KEYS),
            queue_limit_s=3600,
            bundle_limit_s=-1,
        ).reconcile(epoch)
    row = await client.ended(orphan.turn_id)
    assert row.error is not None
    assert row.error["code"] == "bundle_unavailable"
    assert (await client.turns.states([served.turn_id]))[served.turn_id] is TurnState.QUEUED


async def test_a_row_that_was_never_written_is_upserted_by_start(client: Client, reconciler: Reconciler) -> None:
    epoch = await ensure(client, reconciler)
    turn = await client.send("x", commit=False)
    assert await client.turns.get(turn.turn_id) is None
    claimed = await claim(client, "c")
    assert isinstance(await client.turns.start(start_request(claimed, epoch)), Started)
    again = await client.turns.admit(Admission(turn, claimed.order, claimed.accepted_ms))
    assert again.state is TurnState.RUNNING


async def test_a_row_that_cannot_be_read_harms_no_other(
    client: Client, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure(client, reconciler)
    broken, whole = await client.send("broken", user="u1"), await client.send("whole", user="u2")
    await client.database.fetch("update turns set envelope = '\\x00' where turn_id = $1", broken.turn_id)
    await client.connection.call("FLUSHALL")
    await Workers(client.connection, KEYS).beat("w", slots=4, info={})
    epoch = await ensure(client, reconciler)
    monkeypatch.setattr("kdcube.proc.reconciler.READMIT_AFTER_MS", -1)
    await reconciler.reconcile(epoch)
    claimed = [await claim(client, f"c{n}") for n in range(2)]
    assert [c and c.envelope.turn_id for c in claimed] == [whole.turn_id, None]
    impatient = Reconciler(
        turns=client.turns,
        epochs=Epochs(client.database, "local", "main"),
        queue=client.queue,
        working_state=client.working_state,
        workers=Workers(client.connection, KEYS),
        queue_limit_s=-1,
    )
    await impatient.reconcile(epoch)
    row = await client.turns.get(broken.turn_id)
    assert row is not None
    assert row.state is TurnState.FAILED
