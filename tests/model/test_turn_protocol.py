"""The whole turn protocol on real stores, whatever is lost, late, repeated, killed or stands still in between.

The machine lets the product's own processes go on one store call at a time (``actors``), does to them and to the stores
what may happen, and holds what users can observe against what they were promised (``ledger``). In the end everything is
brought back, and all must come to an end and leave nothing behind.

``KDCUBE_EXAMPLES`` sets how many histories are tried, and makes them random; without it they are always the same.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from itertools import count
from typing import Any, ClassVar, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.model.actors import Actor, Fate
from tests.model.hosts import GRACE_S, Run
from tests.model.ledger import ENDED, Message
from tests.model.services import ATTEMPTS, PROJECT, QUEUE_LIMIT_S, TENANT, Service, WorkerService
from tests.model.world import Backend, Request, World

from kdcube.protocol.ids import turn_id_for
from kdcube.protocol.turns import Policy, TurnEnvelope, UserType, content_hash

USERS = {"ann": UserType.PAID, "bob": UserType.ANONYMOUS}
CONVERSATIONS = st.sampled_from(["1", "1", "1", "1", "2", "2", "3", "ann's"])
POLICIES = st.sampled_from([Policy.ENQUEUE, Policy.ENQUEUE, Policy.STEER, Policy.STEER, *Policy])
AGAIN = st.sampled_from(
    ["send again", "send again", "send otherwise", "cancel", "cancel", "cancel conversation", "delete conversation"]
)
BUNDLE = st.sampled_from(["say", "say", "take", "take", "take", "end", "end", "fail", "fail, try again", "stubborn"])
WORKER = st.sampled_from(["stand still", "stand still", "drain", "listen", "renew", "host dies", "host leaves"])
TROUBLE = st.sampled_from(
    [
        *("Valkey is saved", "Valkey is empty", "Valkey falls back", "all wake up", "all wake up", "timers fire"),
        *("rows age", "rows age", "rows wait too long"),
    ]
)
PICK = st.integers(0, 11)
STEPS = st.integers(0, 9)
FATES = st.sampled_from([Fate.DONE, Fate.DONE, Fate.DONE, *Fate])
EXAMPLES = int(os.environ.get("KDCUBE_EXAMPLES", "0"))
T = TypeVar("T")


class TurnProtocol(RuleBasedStateMachine):
    backend: ClassVar[Backend]

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.world = World(self.backend, self.told.append)
        self.numbers = count(1)
        self.run(self.world.open())

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        try:
            return self.backend.loop.run_until_complete(step)
        except BaseException:
            for line in self.told:
                note(line)
            raise

    def did(self, what: str) -> None:
        self.told.append(f"-- {what}")

    def do(self, service: Service, what: Any, *args: Any) -> None:
        """Something happens to a process."""

        async def happen() -> None:
            service.actor.do(what, *args)
            await self.world.quiet()

        self.run(happen())

    # --- who could go on ----------------------------------------------------------------------------------------------

    @property
    def awake(self) -> list[Service]:
        return [service for service in self.world.services if not service.stalled]

    @property
    def asking(self) -> list[Actor]:
        return [service.actor for service in self.awake if service.actor.steps]

    @property
    def workers(self) -> list[WorkerService]:
        """Those that do not stand still."""
        return [w for w in self.world.workers.values() if w.ready and not w.stalled]

    @property
    def runs(self) -> list[Run]:
        return [run for worker in self.workers for run in worker.runs if run.alive]

    async def go_on(self, actor: Actor, steps: int, fate: Fate = Fate.DONE, which: int = 0) -> None:
        """``steps`` that go well, then one more with its fate."""
        for number in range(steps + 1):
            if actor.steps:
                step = actor.steps[which % len(actor.steps)]
                await self.world.grant(actor, step, fate if number == steps else Fate.DONE)

    # --- clients ------------------------------------------------------------------------------------------------------

    @rule(
        user=st.sampled_from(sorted(USERS)),
        conversation=CONVERSATIONS,
        policy=POLICIES,
        bundle=st.sampled_from(sorted(ATTEMPTS)),
        at=PICK,
        steps=STEPS,
        fate=FATES,
    )
    def send(self, user: str, conversation: str, policy: Policy, bundle: str, at: int, steps: int, fate: Fate) -> None:
        self.send_message(user, conversation, policy, bundle, at, steps, fate)

    def send_message(
        self, user: str, conversation: str, policy: Policy, bundle: str, at: int, steps: int, fate: Fate
    ) -> None:
        name = f"m{next(self.numbers)}"
        whose = "ann" if conversation == "ann's" else user
        envelope = self.envelope(user, f"{whose}-{conversation[0]}", policy, bundle, name, name)
        self.did(f"{user} sends {name} to {envelope.conversation_id} ({policy}, {bundle})")
        self.ask(at, self.message(envelope), steps, fate)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, policy=POLICIES, at=PICK, steps=STEPS, fate=FATES)
    def send_to_what_runs(self, pick: int, policy: Policy, at: int, steps: int, fate: Fate) -> None:
        run = self.runs[pick % len(self.runs)]
        user, conversation = self.world.ledger.of(run.turn_id)[0].envelope.user_id, run.conversation_id[-1]
        self.send_message(user, conversation, policy, "once@1", at, steps, fate)

    @precondition(lambda self: self.world.ledger.messages)
    @rule(pick=PICK, at=PICK, steps=STEPS, fate=FATES, what=AGAIN)
    def again(self, pick: int, at: int, steps: int, fate: Fate, what: str) -> None:
        """Something is done about a message."""
        messages = self.world.ledger.messages
        message = messages[-1 - pick % len(messages)]
        e = message.envelope
        self.did(f"{e.text}: {what}")
        match what:
            case "cancel":
                request = self.world.cancelling(e)
            case "cancel conversation" | "delete conversation":
                request = self.world.stopping(e.user_id, e.conversation_id, delete=what[0] == "d")
            case "send again":
                request = self.world.sending(message)
            case _:
                request = self.message(
                    self.envelope(
                        e.user_id, e.conversation_id, e.policy, e.bundle_id, e.client_turn_id, f"{e.text} or not"
                    )
                )
        self.ask(at, request, steps, fate)

    def message(self, envelope: TurnEnvelope) -> Request:
        message = Message(envelope, self.world.ledger.now)
        self.world.ledger.messages.append(message)
        return self.world.sending(message)

    def envelope(self, user: str, conversation: str, policy: Policy, bundle: str, key: str, text: str) -> TurnEnvelope:
        return TurnEnvelope(
            turn_id=turn_id_for(TENANT, PROJECT, user, key),
            client_turn_id=key,
            tenant=TENANT,
            project=PROJECT,
            user_id=user,
            user_type=USERS[user],
            session_id=f"session of {user}",
            request_id="request",
            conversation_id=conversation,
            bundle_id=bundle,
            text=text,
            content_hash=content_hash(
                text=text, conversation_id=conversation, bundle_id=bundle, payload={}, policy=policy
            ),
            policy=policy,
        )

    def ask(self, at: int, request: Request, steps: int, fate: Fate) -> None:
        ingress = list(self.world.ingresses.values())[at % len(self.world.ingresses)]

        async def ask() -> None:
            request(ingress)
            await self.world.quiet()
            await self.go_on(ingress.actor, steps, fate)

        self.run(ask())

    # --- steps --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.asking)
    @rule(pick=PICK, which=PICK, steps=STEPS, fate=FATES)
    def step(self, pick: int, which: int, steps: int, fate: Fate) -> None:
        self.run(self.go_on(self.asking[pick % len(self.asking)], steps, fate, which))

    @rule(rounds=st.integers(1, 8))
    def all_goes_well(self, rounds: int) -> None:
        """Everybody who can goes on for a while."""

        async def go_on() -> None:
            for _ in range(rounds):
                for worker in self.workers:
                    worker.actor.do(worker.doorbell.ring)
                await self.world.quiet(0)
                for actor in self.asking:
                    await self.go_on(actor, 0)

        self.run(go_on())

    @precondition(lambda self: self.world.late)
    @rule(pick=PICK)
    def comes_late(self, pick: int) -> None:
        self.run(self.world.come_late(pick))

    @rule(steps=st.integers(0, 40), fate=FATES)
    def maintain(self, steps: int, fate: Fate) -> None:
        leader = self.world.leaders["L1"]
        self.do(leader, leader.look)
        self.run(self.go_on(leader.actor, steps, fate))

    # --- workers and their bundles ------------------------------------------------------------------------------------

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, what=BUNDLE, steps=STEPS, fate=FATES)
    def bundle(self, pick: int, what: str, steps: int, fate: Fate) -> None:
        run = self.runs[pick % len(self.runs)]
        (worker,) = [worker for worker in self.workers if run in worker.runs]
        self.did(f"the bundle of {run.text}: {what}")
        if what == "stubborn":
            run.stubborn = True
            return
        if what == "take":
            self.do(worker, worker.subscriber.again)
            self.run(self.go_on(worker.actor, 0))
        words = f"{run.text}.{run.attempt}.{len(run.said)} "
        command = {"say": ("say", words), "fail": ("fail", False), "fail, try again": ("fail", True)}
        self.do(worker, run.commands.put_nowait, command.get(what, (what, None)))
        self.run(self.go_on(worker.actor, steps, fate))

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, what=WORKER)
    def worker(self, pick: int, what: str) -> None:
        worker = self.workers[pick % len(self.workers)]
        self.did(f"{worker.name}: {what}")
        host = worker.pool.processes[-1]
        match what:
            case "stand still":
                worker.stalled = True
            case "drain":
                self.do(worker, worker.drain)
            case "listen":
                self.do(worker, worker.subscriber.again)
            case "renew":
                self.do(worker, worker.keeper.renew)
            case "host dies":
                self.do(worker, host.die)
            case "host leaves":
                if host.doomed:
                    self.do(worker, host.die)
                self.do(worker, worker.pool.launch)

    # --- time and faults ----------------------------------------------------------------------------------------------

    @rule(cut=st.sets(st.sampled_from(["W1", "W2"])))
    def a_lease_passes(self, cut: set[str]) -> None:
        self.did(f"a lease passes{''.join(f', {name} is cut off' for name in sorted(cut))}")
        self.run(self.world.a_lease_passes(cut))

    @rule(what=TROUBLE)
    def trouble(self, what: str) -> None:
        if what == "Valkey falls back" and not self.world.saved:
            what = "Valkey is empty"
        self.did(what)
        match what:
            case "Valkey is saved":
                self.run(self.world.save_valkey())
            case "Valkey is empty":
                self.run(self.world.empty_valkey())
            case "Valkey falls back":
                self.run(self.world.fall_back())
            case "all wake up":
                for worker in self.workers:
                    worker.stalled = False
            case "timers fire":
                self.run(self.world.long())
            case "rows age":
                self.run(self.world.rows_age(11.0))
            case _:
                self.run(self.world.rows_age(QUEUE_LIMIT_S + 1))

    @rule(name=st.sampled_from(["I1", "I2", "W1", "W2", "W1", "W2", "L1"]), sent=st.booleans())
    def crash(self, name: str, sent: bool) -> None:
        (service,) = [service for service in self.world.services if service.name == name]
        self.did(f"{name} is killed{' after its requests' if sent else ''}")

        async def crash() -> None:
            await self.world.crash(service, sent)
            await self.world.replace(name)

        self.run(crash())

    # --- what must be true --------------------------------------------------------------------------------------------

    @invariant()
    def keeps_its_promises(self) -> None:
        async def check() -> None:
            for worker in list(self.world.workers.values()):
                if worker.main.done():  # it has drained
                    await self.world.replace(worker.name)
            await self.world.check()

        self.run(check())

    def teardown(self) -> None:
        self.did("all comes back")
        try:
            self.run(self._come_to_an_end())
        finally:
            self.backend.loop.run_until_complete(self._close())

    async def _come_to_an_end(self) -> None:
        world = self.world
        for worker in world.workers.values():
            worker.stalled = False
        while world.late:
            await world.come_late(0)
        for _ in range(60):
            await self._a_while()
            await world.check()
            if await self._all_quiet():
                break
        else:
            left = [f"{row.message} {row.state}" for row in world.ledger.rows.values() if row.state not in ENDED]
            raise AssertionError(f"this never ends: {left}, {await world.partition.check(lossy=True)}")
        await world.partition.check_empty(lossy=True)
        world.ledger.settle()
        await world.check_what_is_left()

    async def _a_while(self) -> None:
        world = self.world
        for worker in self.workers:
            worker.actor.do(worker.subscriber.again)
            for process in worker.pool.processes:
                if process.doomed:
                    worker.actor.do(process.die)
            worker.actor.do(worker.pool.launch)
            for run in worker.runs:
                if run.alive and run.commands.empty():
                    run.stubborn = False
                    worker.actor.do(run.commands.put_nowait, ("end", None))
            worker.actor.do(worker.doorbell.ring)
        await world.long()
        for service in world.services:
            await world.finish(service.actor)
        await world.a_lease_passes(set())
        await world.rows_age(11.0)
        for leader in world.leaders.values():
            leader.actor.do(leader.look)
            await world.quiet()
            await world.finish(leader.actor)
        for worker in list(world.workers.values()):
            if worker.main.done():
                await world.replace(worker.name)

    async def _all_quiet(self) -> bool:
        world = self.world
        rows = world.ledger.rows.values()
        return (
            all(row.state in ENDED for row in rows)
            and not await world.partition.check(lossy=True)
            and not any(worker.worker.running for worker in self.workers)
        )

    async def _close(self) -> None:
        for service in self.world.services:
            service.crash()
        await self.world.quiet()


def explore(backend: Backend, examples: int, steps: int, *, derandomize: bool) -> None:
    class Machine(TurnProtocol):
        pass

    Machine.backend = backend
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=derandomize,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def backend(valkey_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setattr("kdcube.proc.attempt.FLUSH_S", GRACE_S)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    backend = Backend(valkey_url, database_url)
    yield backend
    backend.close()
    structlog.reset_defaults()


@pytest.mark.timeout(0 if EXAMPLES else 600)
def test_every_promise_is_kept_whatever_happens(backend: Backend) -> None:
    explore(backend, EXAMPLES or 60, 40, derandomize=not EXAMPLES)
