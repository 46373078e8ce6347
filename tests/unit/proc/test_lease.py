from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from kdcube.proc.lease import STALL_LIMIT_S, LeaseKeeper
from kdcube.redis.renewal import Renewed


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeRenewal:
    """Valkey as the keeper sees it: ``answer`` None is a Valkey that is away."""

    def __init__(self) -> None:
        self.answer: Renewed | None = Renewed(frozenset(), frozenset())
        self.asked: list[dict[str, str]] = []

    def renew(self, claims: Mapping[str, str]) -> Renewed | None:
        self.asked.append(dict(claims))
        return self.answer

    def close(self) -> None:
        pass


class Kept:
    def __init__(self) -> None:
        self.clock = Clock()
        self.renewal = FakeRenewal()
        self.lost: list[tuple[str, str]] = []
        self.cancelled: list[tuple[str, str]] = []
        self.keeper = LeaseKeeper(
            self.renewal,
            lease_s=15.0,
            on_lost=lambda turn, claim: self.lost.append((turn, claim)),
            on_cancelled=lambda turn, claim: self.cancelled.append((turn, claim)),
            clock=self.clock,
        )


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_a_lease_is_given_up_three_seconds_before_it_can_run_out(kept: Kept) -> None:
    kept.keeper.add("t", "c", sent_at=100.0)
    kept.clock.now = 112.0
    kept.keeper.expire()
    assert kept.lost == []
    kept.clock.now = 112.01
    kept.keeper.expire()
    assert kept.lost == [("t", "c")]
    kept.keeper.expire()
    assert kept.lost == [("t", "c")]


def test_a_renewal_counts_from_when_it_was_sent(kept: Kept) -> None:
    kept.keeper.add("t", "c", sent_at=100.0)
    kept.clock.now = 105.0
    assert kept.keeper.renew()
    assert kept.renewal.asked == [{"t": "c"}]
    kept.clock.now = 116.9
    kept.keeper.expire()
    assert kept.lost == []
    kept.clock.now = 117.1
    kept.keeper.expire()
    assert kept.lost == [("t", "c")]


def test_a_renewal_that_failed_renews_nothing(kept: Kept) -> None:
    kept.keeper.add("t", "c", sent_at=100.0)
    kept.renewal.answer = None
    kept.clock.now = 111.0
    assert not kept.keeper.renew()
    kept.clock.now = 112.1
    kept.keeper.expire()
    assert kept.lost == [("t", "c")]


def test_what_valkey_gave_to_somebody_else_is_told(kept: Kept) -> None:
    kept.keeper.add("t", "c", sent_at=100.0)
    kept.keeper.add("u", "d", sent_at=100.0)
    kept.renewal.answer = Renewed(frozenset({"t"}), frozenset({"u"}))
    kept.keeper.renew()
    assert kept.lost == [("t", "c")]
    assert kept.cancelled == [("u", "d")]


def test_only_the_claim_that_was_added_is_removed(kept: Kept) -> None:
    kept.keeper.add("t", "new", sent_at=100.0)
    kept.keeper.remove("t", "old")
    kept.keeper.renew()
    assert kept.renewal.asked == [{"t": "new"}]
    kept.keeper.remove("t", "new")
    kept.keeper.renew()
    assert kept.renewal.asked[-1] == {}


def test_a_loop_that_stands_still_gets_no_renewals(kept: Kept) -> None:
    kept.keeper.add("t", "c", sent_at=100.0)
    kept.clock.now += STALL_LIMIT_S + 1
    assert not kept.keeper.may_renew()
    kept.keeper.loop_is_alive()
    assert kept.keeper.may_renew()


def test_a_renewal_that_breaks_does_not_end_the_thread() -> None:
    kept, given_up = Kept(), threading.Event()

    def broken(claims: Mapping[str, str]) -> Renewed:
        kept.clock.now += 13
        raise RuntimeError

    kept.renewal.renew = broken
    keeper = LeaseKeeper(
        kept.renewal,
        lease_s=15.0,
        on_lost=lambda turn, claim: given_up.set(),
        on_cancelled=lambda turn, claim: None,
        clock=kept.clock,
    )
    keeper.add("t", "c", sent_at=100.0)
    keeper.start()
    assert given_up.wait(10)
    keeper.stop()


def test_the_keeper_tells_that_it_is_alive_while_it_may_renew() -> None:
    clock, told, renewal = Clock(), threading.Semaphore(0), FakeRenewal()
    keeper = LeaseKeeper(
        renewal,
        lease_s=0.04,
        on_lost=lambda *_: None,
        on_cancelled=lambda *_: None,
        on_alive=told.release,
        clock=clock,
    )
    keeper.start()
    try:
        for _ in range(3):
            assert told.acquire(timeout=10)
        clock.now += STALL_LIMIT_S + 0.1
        asked = len(renewal.asked)
        while told.acquire(timeout=0.1):  # what was under way
            pass
        assert not told.acquire(timeout=0.1)
        assert len(renewal.asked) <= asked + 1
    finally:
        keeper.stop()
