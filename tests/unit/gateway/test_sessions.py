"""Session ids that prove themselves."""

from __future__ import annotations

import pytest

from kdcube.gateway.identity.sessions import ANONYMOUS_MAX_AGE_S, ANONYMOUS_RENEW_S, Sessions
from kdcube.protocol.ids import check_client_id, check_user_id


class Time:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def sessions(time: Time) -> Sessions:
    return Sessions("secret", "t", "p", clock=time)


def test_an_anonymous_session_says_who_it_is(sessions: Sessions) -> None:
    session = sessions.open_anonymous()
    assert sessions.anonymous(session.session_id) == session
    check_client_id("session", session.session_id)
    check_user_id("user", session.user_id)
    assert sessions.open_anonymous().user_id != session.user_id


def test_a_user_id_does_not_give_the_session_away(sessions: Sessions) -> None:
    session = sessions.open_anonymous()
    random = session.session_id.split(".")[2]
    assert random not in session.user_id


def test_any_changed_character_is_refused(sessions: Sessions) -> None:
    for session_id, prove in (
        (sessions.open_anonymous().session_id, sessions.anonymous),
        (sessions.of_user("alice"), lambda given: sessions.belongs(given, "alice")),
    ):
        assert prove(session_id)
        for at, character in enumerate(session_id):
            other = "B" if character != "B" else "C"
            assert not prove(session_id[:at] + other + session_id[at + 1 :]), at
        for wrong in ("", session_id[:-1], session_id + "A", session_id + "\n", "a1." * 10):
            assert not prove(wrong)


def test_a_session_of_a_user_is_nobody_elses(sessions: Sessions) -> None:
    session_id = sessions.of_user("alice")
    assert sessions.belongs(session_id, "alice")
    assert not sessions.belongs(session_id, "bob")
    assert sessions.anonymous(session_id) is None
    assert not sessions.belongs(sessions.open_anonymous().session_id, "alice")
    assert sessions.of_user("alice") == session_id  # so that a new one does not start limits anew


@pytest.mark.parametrize("other", [("other", "t", "p"), ("secret", "t2", "p"), ("secret", "t", "p2")])
def test_sessions_hold_for_one_secret_and_scope(sessions: Sessions, other: tuple[str, str, str], time: Time) -> None:
    assert Sessions(*other, clock=time).anonymous(sessions.open_anonymous().session_id) is None


def test_a_session_expires_and_is_renewed_for_the_same_user(sessions: Sessions, time: Time) -> None:
    session = sessions.open_anonymous()
    assert not sessions.due(session)
    time.now += ANONYMOUS_RENEW_S + 1
    assert sessions.due(session)
    renewed = sessions.renewed(session)
    assert renewed.user_id == session.user_id and not sessions.due(renewed)
    time.now += ANONYMOUS_MAX_AGE_S - ANONYMOUS_RENEW_S
    assert sessions.anonymous(session.session_id) is None
    assert sessions.anonymous(renewed.session_id) == renewed


def test_a_session_from_the_future_is_refused(sessions: Sessions, time: Time) -> None:
    session = sessions.open_anonymous()
    time.now -= 3600
    assert sessions.anonymous(session.session_id) is None
