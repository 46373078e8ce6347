"""Fairness as a property. The bounds hold for any mix and over any stretch of claims.

Users of a class (self-clocked fair queueing, unit cost): tags are whole numbers, a turn competes with one more than the
later of the class's time and its user's last tag, and the lowest tag is served. So the next turn of a user who has one
waiting is tagged with the class's time or one more, and while it goes on waiting the user's tags are consecutive. Over
a stretch in which the time goes from v to w such a user is served w - v - 1 to w - v + 1 times: two users differ by 2
at most, and by 1 from the moment at which both begin.

Classes (start-time fair queueing, cost 1/weight): a class that waits starts between the clock and clock + 1/weight, so
two of them differ by 1/weight + 1/weight at most, counted in claims per weight. A class that comes back starts at the
clock: it has no credit. Hence a class with something to run sees at most 1 + w_other / w_own claims of each other class
before its own.

Who is not ready (nothing waits, or a cap is reached) claims nothing meanwhile and earns no credit: a stretch is one
throughout which both are ready.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.integration.redis.partition import Partition, a_partition

from kdcube.protocol.turns import UserType
from kdcube.redis.queue import DEFAULT_SHARES, Claim, ClassShare

CLASSES = [UserType.PRIVILEGED, UserType.PAID, UserType.ANONYMOUS]
BUNDLES = ("a@1", "b@1")


class Spread:
    """How far two counts have drifted apart over any stretch since both began to wait."""

    def __init__(self) -> None:
        self.difference = self.lowest = self.highest = Fraction(0)

    def add(self, amount: Fraction) -> None:
        self.difference += amount
        self.lowest = min(self.lowest, self.difference)
        self.highest = max(self.highest, self.difference)

    @property
    def widest(self) -> Fraction:
        return self.highest - self.lowest


@dataclass(frozen=True)
class Rules:
    """What is configured. ``caps``: of turns that a class runs at once."""

    weights: dict[UserType, int]
    caps: dict[UserType, int]
    running_per_user: int


class Observer:
    """Follows who is ready and who is served, and asserts the bounds after each claim.

    A user is *ready* with a turn that may run: its user is below the cap of running turns, and so is its class.
    """

    def __init__(self, classes: dict[str, UserType], rules: Rules) -> None:
        self.classes = classes
        self.rules = rules
        self.waiting: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.spreads: defaultdict[tuple[object, object], Spread] = defaultdict(Spread)

    @property
    def ready(self) -> set[str]:
        busy: Counter[UserType] = Counter()
        for user, count in self.running.items():
            busy[self.classes[user]] += count
        return {
            user
            for user, count in self.waiting.items()
            if count
            and self.running[user] < self.rules.running_per_user
            and busy[self.classes[user]] < self.rules.caps[self.classes[user]]
        }

    def sent(self, user: str, count: int) -> None:
        self.waiting[user] += count
        self._forget_who_is_not_ready()

    def ended(self, user: str) -> None:
        self.running[user] -= 1
        self._forget_who_is_not_ready()

    def served(self, user: str) -> None:
        ready, class_ = self.ready, self.classes[user]
        assert user in ready
        for one, other in combinations(sorted(ready), 2):
            if self.classes[one] is self.classes[other] and user in (one, other):
                spread = self.spreads[one, other]
                spread.add(Fraction(1 if user == one else -1))
                assert spread.widest <= 2
        weights = self.rules.weights
        for one, other in combinations(sorted({self.classes[name] for name in ready}), 2):
            if class_ in (one, other):
                spread = self.spreads[one, other]
                spread.add(Fraction(1 if class_ is one else -1, weights[class_]))
                assert spread.widest <= Fraction(1, weights[one]) + Fraction(1, weights[other])
        self.waiting[user] -= 1
        self.running[user] += 1
        self._forget_who_is_not_ready()

    def nobody_was_served(self) -> None:
        assert not self.ready

    def _forget_who_is_not_ready(self) -> None:
        ready: set[object] = set(self.ready)
        ready |= {self.classes[str(name)] for name in ready}
        for pair in [pair for pair in self.spreads if not ready.issuperset(pair)]:
            del self.spreads[pair]


SLOTS = 8
USERS = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(BUNDLES)), min_size=2, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 5), st.integers(1, 8)),
        st.tuples(st.just("claim"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 20), st.integers(1, 6)),
    ),
    min_size=10,
    max_size=60,
)
RULES = st.builds(
    lambda weights, caps, running_per_user: Rules(
        dict(zip(CLASSES, weights, strict=True)), dict(zip(CLASSES, caps, strict=True)), running_per_user
    ),
    st.lists(st.integers(1, 9), min_size=len(CLASSES), max_size=len(CLASSES)),
    st.lists(st.sampled_from([1, 3, SLOTS - 1, 10**9]), min_size=len(CLASSES), max_size=len(CLASSES)),
    st.sampled_from([1, 2, 5, 1000]),
)
"""Any weights; caps of classes and users that bind, and some that do not."""


@pytest.mark.timeout(0 if "KDCUBE_EXAMPLES" in os.environ else 120)
def test_users_of_a_class_and_classes_by_weight_get_their_share_of_any_stretch(server_url):
    """With any mix of users, classes, weights and caps, whatever comes and ends whenever."""

    async def play(users: list[tuple[UserType, str]], rules: Rules, steps: list[tuple[str, int, int]]) -> None:
        shares = {c: ClassShare(rules.weights[c], share=min(1.0, rules.caps[c] / SLOTS)) for c in CLASSES}
        async with a_partition(server_url, shares=shares, running_per_user=rules.running_per_user) as partition:
            await partition.workers.beat("worker", slots=SLOTS, info={})
            observer = Observer({f"user-{n}": class_ for n, (class_, _) in enumerate(users)}, rules)
            running: list[Claim] = []

            async def claim(count: int) -> None:
                claims = await partition.claim(count, room=dict.fromkeys(BUNDLES, 100))
                for claimed in claims:
                    observer.served(claimed.envelope.user_id)
                if len(claims) < count:
                    observer.nobody_was_served()
                running.extend(claims)

            async def end(which: int) -> None:
                claimed = running.pop(which % len(running))
                await partition.finish(claimed)
                observer.ended(claimed.envelope.user_id)

            for what, which, count in steps:
                if what == "send":
                    class_, bundle = users[which % len(users)]
                    for _ in range(count):
                        await partition.admitted(f"user-{which % len(users)}", user_type=class_, bundle=bundle)
                    observer.sent(f"user-{which % len(users)}", count)
                elif what == "claim":
                    await claim(which)
                else:
                    for _ in range(min(count, len(running))):
                        await end(which)
            while running or observer.ready:
                await claim(3)
                while running:
                    await end(0)
            await partition.check_empty()

    @settings(
        max_examples=int(os.environ.get("KDCUBE_EXAMPLES", "60")),
        deadline=None,
        database=None,
        derandomize="KDCUBE_EXAMPLES" not in os.environ,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(users=USERS, rules=RULES, steps=STEPS)
    def run(users: list[tuple[UserType, str]], rules: Rules, steps: list[tuple[str, int, int]]) -> None:
        asyncio.run(play(users, rules, steps))

    run()


async def claims_until(partition: Partition, turn_id: str) -> Counter[str]:
    """How many turns of each user are served before this one."""
    before: Counter[str] = Counter()
    while True:
        [claim] = await partition.claim()
        await partition.finish(claim)
        if claim.envelope.turn_id == turn_id:
            return before
        before[claim.envelope.user_id] += 1


@pytest.mark.anyio
async def test_a_newcomer_overtakes_what_one_user_has_piled_up(server_url):
    async with a_partition(server_url, running_per_user=1000) as partition:
        for _ in range(300):
            await partition.admitted("greedy")
        await partition.run_some(20)
        newcomer = await partition.admitted("new")
        assert (await partition.queue.positions([newcomer.turn_id], epoch=1))[0].position <= 2
        assert (await claims_until(partition, newcomer.turn_id))["greedy"] <= 1


@pytest.mark.anyio
@pytest.mark.parametrize("class_", UserType)
async def test_no_class_starves(server_url, class_):
    """Among floods of every other class, within the bound."""
    async with a_partition(server_url, running_per_user=1000) as partition:
        for other in UserType:
            if other is not class_:
                for _ in range(60):
                    await partition.admitted(other, user_type=other)
        await partition.run_some(50)
        lone = await partition.admitted("lone", user_type=class_)
        before = await claims_until(partition, lone.turn_id)
        for other, count in before.items():
            assert count <= 1 + DEFAULT_SHARES[UserType(other)].weight / DEFAULT_SHARES[class_].weight


@pytest.mark.anyio
async def test_an_absent_class_earns_no_credit(server_url):
    async with a_partition(server_url, running_per_user=1000) as partition:
        for _ in range(400):
            await partition.admitted("paid", user_type=UserType.PAID)
        await partition.run_some(200)
        for _ in range(100):
            await partition.admitted("anonymous", user_type=UserType.ANONYMOUS)
        served = Counter(claim.envelope.user_id for claim in await partition.run_some(50))
        assert abs(served["paid"] / 4 - served["anonymous"] / 1) <= 1 / 4 + 1
        assert served["paid"] >= 39


@pytest.mark.anyio
async def test_a_worker_with_room_for_one_bundle_does_not_upset_the_others(server_url):
    async with a_partition(server_url, running_per_user=1000) as partition:
        for _ in range(40):
            await partition.admitted("ann", bundle="a@1")
            await partition.admitted("bob", bundle="b@1")
            await partition.admitted("cy", bundle="a@1")
        for _ in range(10):
            await partition.run_some(1, room={"a@1": 1})
        served = Counter(c.envelope.user_id for c in await partition.run_some(60, room={"a@1": 1, "b@1": 1}))
        # What was passed over for want of room comes first, and then all take turns again.
        assert abs(served["bob"] - 5 - served["ann"]) <= 1
        assert abs(served["ann"] - served["cy"]) <= 2


@pytest.mark.anyio
async def test_the_time_of_a_class_does_not_go_back(partition):
    """An old turn of a bundle that had no room is served late: who comes then is behind those who waited."""
    await partition.admitted("bob", bundle="b@1")
    for _ in range(7):
        await partition.admitted("ann", bundle="a@1")
    await partition.run_some(5, room={"a@1": 1})
    await partition.run_some(1, room={"b@1": 1})
    newcomer = await partition.admitted("new", bundle="a@1")
    [position] = await partition.queue.positions([newcomer.turn_id], epoch=1)
    assert position.position == 2


# --- caps -------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_class_runs_no_more_than_its_share_of_all_slots(server_url):
    shares = {UserType.PAID: ClassShare(1), UserType.ANONYMOUS: ClassShare(100, share=0.3)}
    async with a_partition(server_url, shares=shares) as partition:
        await partition.workers.beat("worker", slots=4, info={})
        await partition.workers.beat("another", slots=4, info={})  # 30 % of 8, rounded up
        for number in range(10):
            await partition.admitted(f"anonymous-{number}", user_type=UserType.ANONYMOUS)
            await partition.admitted(f"paid-{number}")
        claims = await partition.claim(8)
        kinds = Counter(claim.envelope.user_type for claim in claims)
        assert kinds == {UserType.ANONYMOUS: 3, UserType.PAID: 5}
        anonymous = [claim for claim in claims if claim.envelope.user_type is UserType.ANONYMOUS]
        await partition.finish(anonymous[0])
        await partition.queue.release(anonymous[1].envelope.turn_id, anonymous[1].claim_id, epoch=1)
        kinds = Counter(claim.envelope.user_type for claim in await partition.claim(4))
        assert kinds == {UserType.ANONYMOUS: 2, UserType.PAID: 2}


@pytest.mark.anyio
async def test_a_class_at_its_cap_earns_no_credit(server_url):
    shares = {UserType.PAID: ClassShare(1), UserType.ANONYMOUS: ClassShare(1, share=0.01)}
    async with a_partition(server_url, shares=shares, running_per_user=1000) as partition:
        for _ in range(60):
            await partition.admitted("anonymous", user_type=UserType.ANONYMOUS)
            await partition.admitted("paid")
        slow = next(c for c in await partition.claim(2) if c.envelope.user_id == "anonymous")
        served = await partition.run_some(30)
        assert {claim.envelope.user_id for claim in served} == {"paid"}
        await partition.finish(slow)
        served = Counter(claim.envelope.user_id for claim in await partition.run_some(20))
        assert abs(served["paid"] - served["anonymous"]) <= 2


@pytest.mark.anyio
async def test_every_class_may_run_one_turn_whatever_its_share(server_url):
    shares = {UserType.ANONYMOUS: ClassShare(1, share=0.001)}
    async with a_partition(server_url, shares=shares) as partition:
        for number in range(2):
            await partition.admitted(str(number), user_type=UserType.ANONYMOUS)
        assert len(await partition.claim(2)) == 1


@pytest.mark.anyio
async def test_slots_of_a_dead_worker_do_not_keep_a_class_without_a_cap_from_others(server_url):
    """Its turns count as running until their leases run out, while its slots count no more."""
    async with a_partition(server_url) as partition:
        await partition.workers.beat("worker", slots=2, info={})
        await partition.workers.beat("dead", slots=5, info={})
        for number in range(7):
            await partition.admitted(str(number))
        assert len(await partition.claim(5, worker="dead")) == 5
        await partition.workers.leave("dead")
        assert len(await partition.claim(2)) == 2
