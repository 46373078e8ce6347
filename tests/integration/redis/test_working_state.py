"""A model of the whole working state: whatever happens in whatever order, it stays consistent and ends empty.

The machine plays ingress, PostgreSQL, workers, the reaper and the reconciler. Its rows are PostgreSQL's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.integration.redis.partition import HEAD, Partition, a_line, a_message, a_partition

from kdcube.protocol.cursors import Position
from kdcube.protocol.errors import EpochMismatch
from kdcube.protocol.events import TERMINAL_KINDS
from kdcube.protocol.ids import new_id
from kdcube.protocol.turns import TERMINAL, Policy, TurnEnvelope, TurnState, UserType
from kdcube.redis.admission import Admitted, Delivered, Duplicate, Rejected
from kdcube.redis.epoch import Unfinished
from kdcube.redis.eventlog import Appended, Rewound
from kdcube.redis.queue import Claim, Fenced, Opened
from kdcube.redis.steer import TakenSteer

USERS = {"ann": UserType.PAID, "bob": UserType.PAID, "cy": UserType.ANONYMOUS}
BUNDLES = ("echo@1", "search@2")
ENDED = TERMINAL | {TurnState.APPLIED}
ENDINGS = st.sampled_from([TurnState.COMPLETED, TurnState.FAILED, TurnState.CANCELLED, TurnState.INTERRUPTED])
_UNFINISHED = dict.fromkeys(TERMINAL, TurnState.QUEUED) | {TurnState.APPLIED: TurnState.STEERING}
"""As what a stale read shows turns that have ended."""
PICK = st.integers(0, 1000)
T = TypeVar("T")


@dataclass
class Row:
    """What PostgreSQL has of a turn, and what its request knows."""

    message: TurnEnvelope
    nonce: str
    outcome: Admitted | Delivered
    state: TurnState
    claim_id: str = ""
    steer_of: str = ""
    restored: bool = False
    """Its admission is not in Valkey any more: nobody can withdraw it."""


@dataclass
class Held:
    """A claim as its worker sees it. ``lines`` are what it knows to be in the log."""

    claim: Claim
    started: bool = False
    seq: int = 0
    tail: int = 0
    incarnation: int = 0
    seen: set[str] = field(default_factory=set)

    @property
    def turn_id(self) -> str:
        return self.claim.envelope.turn_id


class WorkingStateMachine(RuleBasedStateMachine):
    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.p: Partition = self.run(self._open())
        self.rows: dict[str, Row] = {}
        self.held: dict[str, Held] = {}
        self.stale: list[Held] = []
        self.hosts: dict[str, str] = {}
        """Turns that have ended while their hosts live, with their claims."""
        self.lost_once = False
        self.since_rebuild = 0

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    async def _open(self) -> Partition:
        return await self.stack.enter_async_context(a_partition(self.url, running_per_user=2))

    # --- looking at the rows --------------------------------------------------------------------------------------

    def unfinished(self, *states: TurnState) -> list[Row]:
        return [row for row in self.rows.values() if row.state not in ENDED and (not states or row.state in states)]

    def busy(self, conversation: str) -> bool:
        return any(self.rows[turn].message.conversation_id == conversation for turn in self.hosts) or any(
            row.message.conversation_id == conversation for row in self.unfinished()
        )

    def steers_of(self, turn_id: str) -> list[Row]:
        return [row for row in self.unfinished(TurnState.STEERING) if row.steer_of == turn_id]

    def drop(self, turn_id: str) -> None:
        held = self.held.pop(turn_id, None)
        if held:
            self.stale.append(held)

    # --- ingress --------------------------------------------------------------------------------------------------

    @rule(
        user=st.sampled_from(sorted(USERS)),
        conversation=st.integers(1, 3),
        policy=st.sampled_from(Policy),
        bundle=st.sampled_from(BUNDLES),
    )
    def admit(self, user: str, conversation: int, policy: Policy, bundle: str) -> None:
        message = a_message(
            user,
            f"{user}-{conversation}",
            user_type=USERS[user],
            bundle=bundle,
            policy=policy,
            text=f"{len(self.rows)}",
        )
        nonce = new_id()
        busy = self.busy(message.conversation_id)
        steers = [h for h in self.held.values() if h.claim.envelope.conversation_id == message.conversation_id]
        outcome = self.run(self.p.admit(message, nonce))
        if busy and policy is Policy.REJECT:
            assert outcome == Rejected("conversation_busy", 1.0)
            return
        if steers and policy is Policy.STEER:
            assert isinstance(outcome, Delivered) and outcome.steers == steers[0].turn_id
            state, steer_of = TurnState.STEERING, outcome.steers
        else:
            assert isinstance(outcome, Admitted)
            assert outcome.position == 1 or busy or len(self.unfinished()) > 0
            state, steer_of = TurnState.QUEUED, ""
        self.run(self._admit_again(message, nonce, outcome))
        self.rows[message.turn_id] = Row(message, nonce, outcome, state, steer_of=steer_of)

    async def _admit_again(self, message: TurnEnvelope, nonce: str, first: Admitted | Delivered) -> None:
        async with self.p.unchanged():
            again = await self.p.admit(message, nonce)  # its reply was lost
            assert isinstance(again, type(first)) and again.order == first.order
            assert again.accepted_ms == first.accepted_ms
            other = await self.p.admit(message)  # sent twice
            assert isinstance(other, Duplicate) and other.order == first.order and other.envelope is not None

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def steer(self, pick: int) -> None:
        message = list(self.held.values())[pick % len(self.held)].claim.envelope
        self.admit(message.user_id, int(message.conversation_id[-1]), Policy.STEER, message.bundle_id)

    @precondition(lambda self: self.rows)
    @rule(pick=PICK)
    def withdraw(self, pick: int) -> None:
        row = list(self.rows.values())[pick % len(self.rows)]
        turn_id = row.message.turn_id
        waits = row.state in (TurnState.QUEUED, TurnState.STEERING) and turn_id not in self.held
        withdrawn = self.run(self.p.admission.withdraw(row.message, epoch=self.p.epoch, nonce=row.nonce))
        assert withdrawn == (waits and not row.restored)
        if withdrawn:
            for steer in self.steers_of(turn_id):
                steer.state = TurnState.QUEUED
            del self.rows[turn_id]

    @precondition(lambda self: self.unfinished())
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        row = self.unfinished()[pick % len(self.unfinished())]
        told = self.run(self.p.queue.cancel(row.message.turn_id, epoch=self.p.epoch))
        assert told == (row.message.turn_id in self.held)

    # --- workers --------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3), bundles=st.sets(st.sampled_from(BUNDLES), min_size=1))
    def claim(self, count: int, bundles: set[str]) -> None:
        ids = [new_id() for _ in range(count)]
        room = dict.fromkeys(sorted(bundles), 2)
        claims = self.run(self.p.claim(room=room, claim_ids=ids))
        if claims:
            self.run(self._claim_again(room, ids, claims))
        for claim in claims:
            message = claim.envelope
            row = self.rows[message.turn_id]
            assert message == row.message and message.bundle_id in bundles
            assert claim.order == row.outcome.order and claim.claim_id in ids
            in_conversation = [h.claim.envelope.conversation_id for h in self.held.values()]
            in_conversation += [self.rows[turn].message.conversation_id for turn in self.hosts]
            assert message.conversation_id not in in_conversation
            self.held[message.turn_id] = Held(claim)

    async def _claim_again(self, room: dict[str, int], ids: list[str], claims: list[Claim]) -> None:
        async with self.p.unchanged():
            assert await self.p.claim(room=room, claim_ids=ids) == claims

    @rule(count=st.integers(1, 3))
    def claim_and_start(self, count: int) -> None:
        self.claim(count, set(BUNDLES))
        for held in [held for held in self.held.values() if not held.started]:
            self.start_turn(held)

    def pick_held(self, pick: int, started: bool) -> Held:
        found = [held for held in self.held.values() if held.started is started]
        return found[pick % len(found)]

    @precondition(lambda self: any(not held.started for held in self.held.values()))
    @rule(pick=PICK)
    def start(self, pick: int) -> None:
        self.start_turn(self.pick_held(pick, started=False))

    def start_turn(self, held: Held) -> None:
        row = self.rows[held.turn_id]
        row.state, row.claim_id = TurnState.RUNNING, held.claim.claim_id  # PostgreSQL first
        opened = self.run(self.p.start(held.claim))
        assert isinstance(opened, Opened)
        self.run(self._start_again(held, opened))
        held.started, held.tail, held.incarnation = True, opened.tail, opened.incarnation

    async def _start_again(self, held: Held, opened: Opened) -> None:
        async with self.p.unchanged():
            assert await self.p.start(held.claim) == opened

    @precondition(lambda self: any(held.started for held in self.held.values()))
    @rule(pick=PICK, count=st.integers(1, 3))
    def append(self, pick: int, count: int) -> None:
        held = self.pick_held(pick, started=True)
        texts = [f"{held.seq}.{number}" for number in range(count)]
        outcome = self.run(self.p.append(held.claim, held.seq + 1, held.tail, *texts))
        held.seq += 1
        if isinstance(outcome, Rewound):
            assert self.lost_once
            self.reopen(held)
            return
        assert outcome == Appended(held.tail + count)
        self.run(self._append_again(held, texts, outcome))
        held.tail = outcome.tail

    async def _append_again(self, held: Held, texts: list[str], outcome: Appended) -> None:
        async with self.p.unchanged():
            assert await self.p.append(held.claim, held.seq, held.tail, *texts) == outcome

    def reopen(self, held: Held) -> None:
        async def twice() -> list[Position | Fenced]:
            return [
                await self.p.logs.reopen(
                    held.turn_id,
                    held.claim.claim_id,
                    epoch=self.p.epoch,
                    seq=held.seq,
                    line=a_line("snapshot"),
                    head=HEAD,
                    incarnation=held.incarnation + 1,
                )
                for _ in range(2)
            ]

        first, second = self.run(twice())
        assert isinstance(first, Position) and first == second and first.incarnation > held.incarnation
        held.incarnation, held.tail = first.incarnation, first.offset

    @precondition(lambda self: any(held.started for held in self.held.values()))
    @rule(pick=PICK)
    def lose_log(self, pick: int) -> None:
        held = self.pick_held(pick, started=True)
        self.lost_once = True
        self.run(self._forget_log(held.turn_id))
        self.append(pick, 1)

    async def _forget_log(self, turn_id: str) -> None:
        await self.p.connection.call("DEL", self.p.keys.log(turn_id), self.p.keys.log_meta(turn_id))

    @precondition(lambda self: self.held)
    @rule(pick=PICK, state=ENDINGS, discard=st.booleans(), lingers=st.booleans())
    def finish(self, pick: int, state: TurnState, discard: bool, lingers: bool) -> None:
        held = list(self.held.values())[pick % len(self.held)]
        self.end(held.turn_id, held.claim, state, discard, lingers)
        if lingers:
            self.hosts[held.turn_id] = held.claim.claim_id

    @precondition(lambda self: self.unfinished(TurnState.QUEUED, TurnState.RUNNING))
    @rule(pick=PICK, state=ENDINGS, discard=st.booleans())
    def finish_whoever_holds_it(self, pick: int, state: TurnState, discard: bool) -> None:
        rows = self.unfinished(TurnState.QUEUED, TurnState.RUNNING)
        message = rows[pick % len(rows)].message
        self.end(message.turn_id, message, state, discard, False)

    def end(self, turn_id: str, of: Claim | TurnEnvelope, state: TurnState, discard: bool, lingers: bool) -> None:
        self.rows[turn_id].state = state  # PostgreSQL first, its steers included
        steers = self.steers_of(turn_id)
        for steer in steers:
            steer.state = TurnState.CANCELLED if discard else TurnState.QUEUED
        discarded = [steer.message.turn_id for steer in steers] if discard else []

        async def twice() -> None:
            assert await self.p.finish(of, state, discarded=discarded, lingers=lingers)
            async with self.p.unchanged():
                assert await self.p.finish(of, state, discarded=discarded, lingers=lingers)
                duplicate = await self.p.admit(self.rows[turn_id].message)
                assert isinstance(duplicate, Duplicate) and duplicate.state is state and duplicate.envelope is None

        self.run(twice())
        self.drop(turn_id)

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        held = list(self.held.values())[pick % len(self.held)]
        self.rows[held.turn_id].state = TurnState.QUEUED  # if it had started: PostgreSQL grants another attempt
        assert self.run(self.p.queue.release(held.turn_id, held.claim.claim_id, epoch=self.p.epoch))
        self.drop(held.turn_id)

    @precondition(lambda self: self.hosts)
    @rule(pick=PICK)
    def host_exits(self, pick: int) -> None:
        turn_id = list(self.hosts)[pick % len(self.hosts)]
        claim_id = self.hosts.pop(turn_id)

        async def twice() -> None:
            assert await self.p.queue.exited(turn_id, claim_id, epoch=self.p.epoch)
            async with self.p.unchanged():
                assert not await self.p.queue.exited(turn_id, claim_id, epoch=self.p.epoch)

        self.run(twice())

    # --- steers ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(held.started for held in self.held.values()))
    @rule(pick=PICK)
    def take_steers(self, pick: int) -> None:
        held = self.pick_held(pick, started=True)
        taken = self.run(self.p.steers.take(held.claim.envelope, held.claim.claim_id, epoch=self.p.epoch))
        expected = sorted(self.steers_of(held.turn_id), key=lambda row: row.outcome.order)
        assert taken == [TakenSteer(row.message, row.outcome.order, row.outcome.accepted_ms) for row in expected]
        held.seen |= {row.message.turn_id for row in expected}

    @precondition(lambda self: any(held.seen for held in self.held.values()))
    @rule(pick=PICK)
    def apply_steers(self, pick: int) -> None:
        found = [held for held in self.held.values() if held.seen]
        held = found[pick % len(found)]
        applied = [row for row in self.steers_of(held.turn_id) if row.message.turn_id in held.seen]
        for row in applied:
            row.state = TurnState.APPLIED
        ids = [row.message.turn_id for row in applied]

        async def twice() -> None:
            envelope, claim_id = held.claim.envelope, held.claim.claim_id
            assert await self.p.steers.applied(envelope, claim_id, ids, epoch=self.p.epoch)
            async with self.p.unchanged():
                assert await self.p.steers.applied(envelope, claim_id, ids, epoch=self.p.epoch)

        self.run(twice())

    # --- the reaper and the reconciler ----------------------------------------------------------------------------

    @precondition(lambda self: self.held or self.hosts)
    @rule(pick=PICK, repeat=st.booleans())
    def lease_expires(self, pick: int, repeat: bool) -> None:
        leased = [*self.held, *self.hosts]
        turn_id = leased[pick % len(leased)]
        self.run(self.p.let_lease_expire(turn_id))
        [expired] = self.run(self.p.queue.expired(epoch=self.p.epoch))
        assert expired.turn_id == turn_id
        if turn_id in self.hosts:
            assert expired.state is TurnState.CANCELLED and expired.claim_id == self.hosts[turn_id]
            self.host_exits(list(self.hosts).index(turn_id))
            return
        held = self.held[turn_id]
        assert expired.claim_id == held.claim.claim_id
        released = self.run(self.p.queue.release(turn_id, expired.claim_id, epoch=self.p.epoch, only_expired=True))
        assert released == (not held.started)
        if not held.started:
            self.drop(turn_id)
        elif repeat:
            self.release(list(self.held).index(turn_id))
        else:
            self.end(turn_id, held.claim.envelope, TurnState.INTERRUPTED, False, False)

    @precondition(lambda self: self.stale)
    @rule(pick=PICK)
    def a_zombie_wakes_up(self, pick: int) -> None:
        zombie = self.stale[pick % len(self.stale)]
        envelope, claim_id, epoch = zombie.claim.envelope, zombie.claim.claim_id, self.p.epoch

        async def do_all_it_can() -> None:
            async with self.p.unchanged():
                assert isinstance(await self.p.start(zombie.claim), Fenced)
                assert isinstance(await self.p.append(zombie.claim, 99, zombie.tail, "boo"), Fenced)
                assert isinstance(await self.p.steers.take(envelope, claim_id, epoch=epoch), Fenced)
                assert not await self.p.steers.applied(envelope, claim_id, [new_id()], epoch=epoch)
                assert not await self.p.queue.release(zombie.turn_id, claim_id, epoch=epoch)
                assert isinstance(
                    await self.p.logs.reopen(
                        zombie.turn_id, claim_id, epoch=epoch, seq=9, line=b"x", head=b"", incarnation=9
                    ),
                    Fenced,
                )
                row = self.rows.get(zombie.turn_id)
                if row is not None and row.state not in ENDED:
                    assert not await self.p.finish(zombie.claim)

        self.run(do_all_it_can())

    @precondition(lambda self: self.rows)
    @rule(pick=PICK)
    def put_back_what_is_there(self, pick: int) -> None:
        row = list(self.rows.values())[pick % len(self.rows)]
        if row.state in ENDED and self.lost_once:
            return  # nothing in Valkey tells any more; PostgreSQL is asked before

        async def restore() -> None:
            async with self.p.unchanged():
                assert not await self.p.state.restore(self.as_unfinished(row), epoch=self.p.epoch)

        self.run(restore())

    @precondition(lambda self: self.since_rebuild > 8)
    @rule(lost=st.booleans())
    def rebuild(self, lost: bool) -> None:
        self.since_rebuild = 0
        self.lost_once = self.lost_once or lost
        for turn_id, held in list(self.held.items()):
            if not held.started:
                self.drop(turn_id)
        self.hosts.clear()
        self.run(self._rebuild(lost))
        for row in self.rows.values():
            row.restored = True
        for held in self.held.values():
            held.seen.clear()

    async def _rebuild(self, lost: bool) -> None:
        p = self.p
        if lost:
            await p.connection.call("FLUSHALL")
        p.epoch += 1
        for _ in range(2):
            assert await p.state.begin(p.epoch)
        assert not await p.state.begin(p.epoch - 1)
        for epoch in (p.epoch, p.epoch - 1):
            with pytest.raises(EpochMismatch):
                await p.admission.admit(a_message(), epoch=epoch, nonce=new_id())
        rows = sorted(self.unfinished(), key=lambda row: (row.state is not TurnState.RUNNING, row.outcome.order))
        for row in rows:
            assert await p.state.restore(self.as_unfinished(row), epoch=p.epoch)
            assert not await p.state.restore(self.as_unfinished(row), epoch=p.epoch)
        highest = max((row.outcome.order for row in self.rows.values()), default=0)
        for _ in range(2):
            assert await p.state.publish(p.epoch, max_order=highest, run_id="run")
        assert not await p.state.begin(p.epoch)
        await p.workers.beat("worker", slots=100, info={})
        records = await p.check()
        for row in self.unfinished(TurnState.STEERING):
            if records[row.message.turn_id]["s"] != "s":
                row.state = TurnState.QUEUED  # PostgreSQL makes orphans turns

    def as_unfinished(self, row: Row) -> Unfinished:
        return Unfinished(
            row.message,
            row.outcome.order,
            row.outcome.accepted_ms,
            _UNFINISHED.get(row.state, row.state),
            claim_id=row.claim_id,
            worker_id="worker",
            steers=row.steer_of,
        )

    # --- what must be true ----------------------------------------------------------------------------------------

    @invariant()
    def is_consistent(self) -> None:
        self.since_rebuild += 1
        records = self.run(self.p.check())
        assert records.keys() == {row.message.turn_id for row in self.unfinished()} | self.hosts.keys()
        for turn_id, held in self.held.items():
            assert records[turn_id]["s"] == ("r" if held.started else "c")

    def teardown(self) -> None:
        try:
            self.run(self._drain())
        finally:
            self.run(self.stack.aclose())
            self.runner.close()

    async def _drain(self) -> None:
        for turn_id, claim_id in self.hosts.items():
            assert await self.p.queue.exited(turn_id, claim_id, epoch=self.p.epoch)
        for held in self.held.values():
            assert await self.p.finish(held.claim)
        ran = await self.p.run_all(dict.fromkeys(BUNDLES, 1))
        assert len(ran) == len(set(ran))
        assert {row.message.turn_id for row in self.unfinished()} == {*ran, *self.held}
        await self.p.check_empty()
        for turn_id in self.rows:
            kinds = [line.partition(b" ")[0] for line in await self.p.log_lines(turn_id)]
            assert sum(kind in TERMINAL_KINDS for kind in kinds) == (1 if kinds else 0)
            assert not kinds or kinds[-1] in TERMINAL_KINDS
        if not self.lost_once:
            for user in USERS:
                await self._check_feed(user)

    async def _check_feed(self, user: str) -> None:
        """Each turn begins once and ends once."""
        events = await self.p.feed_events(user)
        for row in self.rows.values():
            if row.message.user_id == user:
                of_turn = [event for event in events if event.get("turn_id") == row.message.turn_id]
                assert [event["type"] for event in of_turn].count("turn.accepted") == 1
                ends = [
                    event
                    for event in of_turn
                    if event["type"] == "turn.ended" or event.get("state") in ("applied", "cancelled")
                ]
                assert len(ends) == 1 and ends[0] is of_turn[-1]


def explore(server_url: str, examples: int) -> None:
    class Machine(WorkingStateMachine):
        url = server_url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_working_state_stays_consistent_whatever_happens(server_url: str) -> None:
    explore(server_url, 50)


def test_all_keys_of_each_script_share_a_slot_of_a_cluster(cluster_url: str) -> None:
    explore(cluster_url, 10)
