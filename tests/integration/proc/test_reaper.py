"""Workers that fell silent: what they had claimed runs or ends visibly, and their late writes change nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.integration.proc.conftest import KEYS, Client, Deployment, fold, kinds

from kdcube.postgres.records import Ending, Finished, NotFinished, Started, StartRequest
from kdcube.proc.bundles.jobs import Delta
from kdcube.proc.log_writer import ClaimLost, LogWriter
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.events import Kind, encode_line
from kdcube.protocol.heads import encode_head
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import Policy, TurnState
from kdcube.redis.epoch import EpochWatch
from kdcube.redis.eventlog import Appended
from kdcube.redis.queue import Claim, Fenced, Opened, Queue
from kdcube.redis.workers import Workers

pytestmark = pytest.mark.anyio

LEASE_S = 1.0


@dataclass
class Silent:
    """A worker that does some steps of a turn by hand and never renews."""

    client: Client
    claim: Claim

    async def start(self) -> Started:
        request = StartRequest(
            self.claim.envelope,
            self.claim.order,
            self.claim.accepted_ms,
            self.claim.claim_id,
            "silent",
            "v0",
            await self.client.epoch(),
        )
        started = await self.client.turns.start(request)
        assert isinstance(started, Started)
        return started

    async def open(self) -> Opened | Fenced:
        return await self.client.queue.start(
            self.claim.envelope,
            self.claim.claim_id,
            epoch=await self.client.epoch(),
            attempt=1,
            head=encode_head(self.claim.envelope, "v0"),
            line=encode_line(Kind.START, "chat.start", ts_ms=1, attempt=1),
        )

    async def say(self, text: str, *, seq: int, tail: int) -> object:
        line = encode_line(Kind.DELTA, "chat.delta", ts_ms=1, attempt=1, delta={"text": text, "marker": "answer"})
        return await self.client.logs.append(
            self.claim.envelope.turn_id,
            self.claim.claim_id,
            epoch=await self.client.epoch(),
            seq=seq,
            tail=tail,
            count=1,
            lines=line,
        )


async def claim_silently(client: Client) -> Silent:
    queue = Queue(client.connection, KEYS, lease_s=LEASE_S)
    claims = await queue.claim(
        epoch=await client.epoch(), worker_id="silent", revision="r", room={"echo@1.0.0": 1}, claim_ids=[new_id()]
    )
    assert isinstance(claims, list)
    return Silent(client, claims[0])


@pytest.fixture
async def silent(deployment: Deployment, client: Client) -> Silent:
    """One turn in the hands of a silent worker; the epoch stands."""
    async with deployment.proc("proc-0", lease_s=LEASE_S) as proc:
        await proc.worker.drain(1)
        await Workers(client.connection, KEYS).beat("silent", slots=1, info={})
        await client.send("hello again", conversation="c1")
        return await claim_silently(client)


async def test_a_claim_that_never_started_runs_elsewhere(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    async with deployment.proc(lease_s=LEASE_S):
        row = await client.ended(silent.claim.envelope.turn_id)
        assert (row.state, row.attempt, row.answer) == (TurnState.COMPLETED, 1, "hello again")
        assert isinstance(await silent.open(), Fenced)


async def test_a_start_without_a_log_is_taken_back(deployment: Deployment, client: Client, silent: Silent) -> None:
    await silent.start()
    async with deployment.proc(lease_s=LEASE_S):
        row = await client.ended(silent.claim.envelope.turn_id)
        assert (row.state, row.answer) == (TurnState.COMPLETED, "hello again")
        assert isinstance(await silent.open(), Fenced)
        assert kinds(await client.lines(row.turn_id)).count("start") == 1


async def test_a_running_turn_ends_as_interrupted_with_what_it_had_said(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    await silent.start()
    assert isinstance(await silent.open(), Opened)
    assert await silent.say("hel", seq=1, tail=1) == Appended(2)
    waiting = await client.send("next", conversation="c1")
    turn_id = silent.claim.envelope.turn_id
    async with deployment.proc(lease_s=LEASE_S):
        row = await client.ended(turn_id)
        assert (row.state, row.attempt, row.answer) == (TurnState.INTERRUPTED, 1, "hel")
        lines = await client.lines(turn_id)
        assert kinds(lines) == ["start", "delta", "error"]
        # The zombie wakes: nothing that it does counts.
        assert isinstance(await silent.say("lo", seq=2, tail=2), Fenced)
        late = Ending(
            turn_id=turn_id,
            claim_id=silent.claim.claim_id,
            state=TurnState.COMPLETED,
            ended_ms=1,
            text_by_marker={"answer": "hello"},
        )
        assert isinstance(await client.turns.finish(late), NotFinished)
        assert await client.lines(turn_id) == lines
        assert await client.answer(waiting.turn_id) == "next"


async def test_a_running_turn_is_repeated_where_its_bundle_allows_it(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    await silent.start()
    await silent.open()
    await silent.say("hel", seq=1, tail=1)
    async with deployment.proc(lease_s=LEASE_S, max_attempts=2):
        row = await client.ended(silent.claim.envelope.turn_id)
        assert (row.state, row.attempt, row.answer) == (TurnState.COMPLETED, 2, "hello again")
        lines = await client.lines(row.turn_id)
        assert fold(row.turn_id, lines).text() == "hello again"


async def test_a_cancel_that_nobody_heard_ends_as_cancelled(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    await silent.start()
    await silent.open()
    turn_id = silent.claim.envelope.turn_id
    await client.turns.cancel(turn_id, "ada", 1)
    async with deployment.proc(lease_s=LEASE_S):
        assert (await client.ended(turn_id)).state is TurnState.CANCELLED


@pytest.mark.parametrize("when", ["before Valkey knew", "after Valkey knew", "then Valkey was lost"])
async def test_the_conversation_of_a_host_that_died_with_its_worker_goes_on(
    deployment: Deployment, client: Client, silent: Silent, when: str
) -> None:
    await silent.start()
    await silent.open()
    envelope, claim_id = silent.claim.envelope, silent.claim.claim_id
    ending = Ending(turn_id=envelope.turn_id, claim_id=claim_id, state=TurnState.CANCELLED, ended_ms=1, lingers=True)
    await client.turns.finish(ending)
    if when != "before Valkey knew":
        await client.queue.finish(
            envelope,
            claim_id,
            epoch=await client.epoch(),
            state=TurnState.CANCELLED,
            line=encode_line(Kind.COMPLETE, "chat.complete", ts_ms=1, attempt=1, data={"state": "cancelled"}),
            lingers=True,
        )
    waiting = await client.send("next", conversation="c1")
    if when == "then Valkey was lost":
        await client.connection.call("FLUSHALL")
    async with deployment.proc(lease_s=LEASE_S):
        assert await client.answer(waiting.turn_id) == "next"
    assert await client.turns.lingering() == []


async def test_a_conversation_waits_for_code_that_lingers_although_valkey_is_lost(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    """Its worker lives and renews: nothing of the conversation starts before it says that the host has exited."""
    await silent.start()
    await silent.open()
    envelope, claim_id = silent.claim.envelope, silent.claim.claim_id
    ending = Ending(turn_id=envelope.turn_id, claim_id=claim_id, state=TurnState.CANCELLED, ended_ms=1, lingers=True)
    await client.turns.finish(ending)
    waiting = await client.send("next", conversation="c1")
    await client.connection.call("FLUSHALL")
    async with deployment.proc():
        epoch = await client.epoch()
        other = await client.send("elsewhere", conversation="c2")
        assert await client.answer(other.turn_id) == "elsewhere"
        positions = await client.queue.positions([envelope.turn_id, waiting.turn_id], epoch=epoch)
        assert [position.state for position in positions] == [TurnState.CANCELLED, TurnState.QUEUED]
        await client.turns.exited(envelope.turn_id)
        assert await client.queue.exited(envelope.turn_id, claim_id, epoch=epoch)
        assert await client.answer(waiting.turn_id) == "next"


async def test_steers_that_were_cancelled_with_their_turn_are_told_so_by_whoever_tells(
    deployment: Deployment, client: Client, silent: Silent
) -> None:
    await silent.start()
    await silent.open()
    envelope, claim_id = silent.claim.envelope, silent.claim.claim_id
    steer = await client.send("and this", conversation="c1", policy=Policy.STEER)
    ending = Ending(turn_id=envelope.turn_id, claim_id=claim_id, state=TurnState.CANCELLED, ended_ms=1)
    assert await client.turns.finish(ending) == Finished([], [steer.turn_id])  # and the worker dies
    async with deployment.proc(lease_s=LEASE_S):
        await client.ended(envelope.turn_id)
    assert await client.receipts(steer.turn_id) == ["accepted", "cancelled"]


async def test_a_writer_that_is_fenced_stops(client: Client, silent: Silent) -> None:
    await silent.start()
    opened = await silent.open()
    assert isinstance(opened, Opened)
    failures: list[KDCubeError] = []
    async with EpochWatch(client.connection, client.subscriber, KEYS).watching() as watch:
        writer = LogWriter(
            client.logs,
            watch,
            silent.claim.envelope,
            "another claim",
            attempt=1,
            head=b"",
            opened=opened,
            epoch=await watch.wait_for(),
            on_written=lambda _: None,
            on_failed=failures.append,
        )
        writer.write(Delta(1, "late"))
        await writer.run()
    assert isinstance(failures[0], ClaimLost)
    assert writer.fold.text() == "late"
    assert (await client.logs.read(silent.claim.envelope.turn_id)).tail == opened.tail
