"""A sign-in is known again only in the browser that began it, for a while."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode

from kdcube.gateway.identity.sealing import Keyring
from kdcube.proxylogin.attempts import LIFETIME_S, Attempts, browser_secret

NOW = 1_700_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def begun(keys: list[bytes] | None = None) -> tuple[Attempts, Clock]:
    clock = Clock()
    return Attempts(Keyring(keys or [b"k" * 32]), clock=clock), clock


def test_it_is_the_same_when_it_comes_back() -> None:
    attempts, _ = begun()
    browser = browser_secret(None)
    attempt = attempts.begin(browser, "/c/1")
    assert attempts.resume(attempt.state, browser) == attempt
    assert attempt.return_to == "/c/1"
    digest = hashlib.sha256(attempt.verifier.encode()).digest()
    assert attempt.challenge == urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert len(attempt.verifier) >= 43 and attempt.verifier not in repr(attempt)


def test_each_is_another_one() -> None:
    attempts, _ = begun()
    browser = browser_secret(None)
    one, two = attempts.begin(browser, "/"), attempts.begin(browser, "/")
    for name in ("state", "nonce", "verifier"):
        assert getattr(one, name) != getattr(two, name)
    assert one.spending.hash != two.spending.hash


def test_another_browser_has_nothing_of_it() -> None:
    attempts, _ = begun()
    state = attempts.begin(browser_secret(None), "/").state
    for stranger in (browser_secret(None), None, "", "short", "a" * 43):
        assert attempts.resume(state, stranger) is None


def test_it_ends_after_a_while() -> None:
    attempts, clock = begun()
    browser = browser_secret(None)
    attempt = attempts.begin(browser, "/")
    clock.now = NOW + LIFETIME_S - 1
    assert attempts.resume(attempt.state, browser)
    clock.now = NOW + LIFETIME_S
    assert attempts.resume(attempt.state, browser) is None
    clock.now = NOW - 3_600
    assert attempts.resume(attempt.state, browser) is None


def test_a_state_cannot_be_changed_or_spelt_otherwise() -> None:
    attempts, _ = begun()
    browser = browser_secret(None)
    state = attempts.begin(browser, "/").state
    other = [state[:-1] + ("A" if state[-1] != "A" else "B"), state + "=", state + "A", "", "!" + state, state * 100]
    assert [attempts.resume(each, browser) for each in other] == [None] * len(other)
    assert begun([b"x" * 32])[0].resume(state, browser) is None


def test_a_browser_keeps_its_secret_unless_it_is_none() -> None:
    secret = browser_secret(None)
    assert browser_secret(secret) == secret
    for odd in ("", "x", secret + "x", secret[:-1] + "!", secret + "; Path=/"):
        assert browser_secret(odd) != odd
