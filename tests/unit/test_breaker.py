"""The circuit breaker: by examples, and as a state machine against a plain description of what it promises."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kdcube.breaker import Breaker, State
from kdcube.protocol.errors import InvalidInput, StoreUnavailable

REST_S, MAX_REST_S = 1.0, 4.0


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def a_breaker(time: Time, failures: int = 3, **more: bool) -> Breaker:
    return Breaker("store", failures=failures, rest_s=REST_S, max_rest_s=MAX_REST_S, monotonic=time, **more)


def fail(breaker: Breaker) -> None:
    with pytest.raises(StoreUnavailable, match="no answer"), breaker.guarding():
        raise StoreUnavailable("store", "no answer")


def succeed(breaker: Breaker) -> None:
    with breaker.guarding():
        pass


def refused(breaker: Breaker) -> bool:
    try:
        breaker.check()
    except StoreUnavailable as error:
        assert error.refused and error.store == "store"
        return True
    return False


def test_failures_in_a_row_open_it_and_one_probe_closes_it() -> None:
    time = Time()
    breaker = a_breaker(time)
    told: list[State] = []
    breaker.on_change.append(told.append)
    fail(breaker)
    fail(breaker)
    succeed(breaker)  # not in a row
    fail(breaker)
    fail(breaker)
    assert breaker.state is State.CLOSED and not refused(breaker)
    fail(breaker)
    assert breaker.state is State.OPEN and breaker.retry_after_s == REST_S
    assert refused(breaker) and "no answer" in breaker.reason
    time.now = REST_S
    assert breaker.state is State.HALF_OPEN
    with breaker.guarding():
        assert refused(breaker)  # one probe, no second
    assert breaker.state is State.CLOSED and not refused(breaker)
    assert told == [State.OPEN, State.CLOSED] and breaker.times_opened == 1


def test_each_probe_that_fails_doubles_the_rest_up_to_its_limit() -> None:
    time = Time()
    breaker = a_breaker(time, failures=1)
    fail(breaker)
    rests = []
    for _ in range(4):
        rests.append(breaker.retry_after_s)
        time.now += rests[-1]
        fail(breaker)
    assert rests == [1, 2, 4, 4]
    time.now += MAX_REST_S
    succeed(breaker)
    fail(breaker)
    assert breaker.retry_after_s == REST_S


def test_what_the_dependency_refuses_shows_that_it_answers() -> None:
    breaker = a_breaker(Time(), failures=2)
    fail(breaker)
    with pytest.raises(InvalidInput), breaker.guarding():
        raise InvalidInput("field", "no")
    fail(breaker)
    assert breaker.state is State.CLOSED


def test_a_probe_whose_caller_leaves_makes_room_for_the_next() -> None:
    time = Time()
    breaker = a_breaker(time, failures=1)
    fail(breaker)
    time.now = REST_S
    with pytest.raises(asyncio.CancelledError), breaker.guarding():
        raise asyncio.CancelledError
    assert not refused(breaker)
    succeed(breaker)
    assert breaker.state is State.CLOSED


def test_an_answer_that_comes_late_closes_it_and_a_late_failure_does_not_prolong_it() -> None:
    time = Time()
    breaker = a_breaker(time, failures=1)
    early, late = breaker.guarding(), breaker.guarding()
    for call in (early, late):
        call.__enter__()
    fail(breaker)
    time.now = 0.5
    error = StoreUnavailable("store", "no answer")
    assert not late.__exit__(type(error), error, None)
    assert breaker.retry_after_s == 0.5
    early.__exit__(None, None, None)
    assert breaker.state is State.CLOSED


def test_an_owner_probes_instead_of_callers() -> None:
    time = Time()
    breaker = a_breaker(time, failures=1, own_probe=True)
    breaker.trip("it is gone")
    breaker.trip("twice is once")
    assert breaker.times_opened == 1 and breaker.reason == "it is gone"
    time.now = REST_S
    assert breaker.state is State.HALF_OPEN and refused(breaker)
    with breaker.probing():
        assert refused(breaker)
    assert not refused(breaker)
    breaker.trip("again")
    breaker.close()
    assert breaker.state is State.CLOSED


class Calls(RuleBasedStateMachine):
    """Calls begin and end in any order, while time goes by."""

    @initialize(failures=st.integers(1, 4))
    def begin(self, failures: int) -> None:
        self.time = Time()
        self.failures = failures
        self.breaker = a_breaker(self.time, failures)
        self.under_way: list[tuple[AbstractContextManager[None], bool]] = []
        self.in_a_row = 0
        """Failures since the last answer, while it is closed."""
        self.opened_at: float | None = None

    @property
    def probes(self) -> int:
        return sum(probe for _, probe in self.under_way)

    @rule()
    def call(self) -> None:
        was = self.breaker.state
        call = self.breaker.guarding()
        try:
            call.__enter__()
        except StoreUnavailable as error:
            assert error.refused
            # Refused only while open, or while somebody else is the probe.
            assert was is State.OPEN or (was is State.HALF_OPEN and self.probes >= 1)
            return
        assert was is not State.OPEN
        self.under_way.append((call, was is State.HALF_OPEN))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), how=st.sampled_from(["answer", "refusal", "failure", "cancel"]))
    def end(self, data: st.DataObject, how: str) -> None:
        call, _ = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        was = self.breaker.state
        errors: dict[str, BaseException | None] = {
            "answer": None,
            "refusal": InvalidInput("field", "no"),
            "failure": StoreUnavailable("store", "no answer"),
            "cancel": asyncio.CancelledError(),
        }
        error = errors[how]
        with suppress(type(error) if error else InvalidInput):
            call.__exit__(None if error is None else type(error), error, None)
        now = self.breaker.state
        match how:
            case "answer" | "refusal":
                assert now is State.CLOSED
                self.in_a_row = 0
                self.under_way = [(other, False) for other, _ in self.under_way]  # their verdict is not waited for
            case "failure" if was is State.CLOSED:
                self.in_a_row += 1
                assert (now is State.OPEN) == (self.in_a_row >= self.failures)
                if now is State.OPEN:
                    self.in_a_row = 0
            case _:
                assert was is State.CLOSED or now is not State.CLOSED

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds

    @invariant()
    def it_closes_by_itself(self) -> None:
        """Nobody needs to do anything: after the longest rest a call passes, unless the probe is under way."""
        if not hasattr(self, "time"):
            return
        assert self.probes <= 1
        assert 0 <= self.breaker.retry_after_s <= MAX_REST_S
        now, self.time.now = self.time.now, self.time.now + MAX_REST_S
        assert self.probes or not refused(self.breaker)
        self.time.now = now


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
