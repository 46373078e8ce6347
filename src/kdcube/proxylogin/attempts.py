"""Sign-ins that are under way. Nothing is stored of them: the state carries what is needed, sealed for one browser.

The browser holds a random secret in a short-lived cookie. Nonce and code verifier derive from it, so that a code or a
state that was taken from one browser is worthless in any other, and whoever reads a URL learns neither.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from kdcube.gateway.identity.sealing import Keyring, Unsealable
from kdcube.postgres.logins import Spending

LIFETIME_S = 600
"""How long a user may take at the provider."""
SKEW_S = 60
"""Of the clocks of two replicas."""
STATE_MAX_CHARS = 4096

_BROWSER = re.compile(r"[A-Za-z0-9_-]{43}")
_STATE = re.compile(r"[A-Za-z0-9_-]+")


class _State(msgspec.Struct, frozen=True, array_like=True):
    random: str
    begun_s: int
    return_to: str


_DECODER = msgspec.msgpack.Decoder(_State)
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What goes to the provider with one sign-in (state, nonce, challenge), and what is kept back (verifier)."""

    state: str
    nonce: str
    verifier: str = field(repr=False)
    return_to: str
    until_s: int

    @property
    def challenge(self) -> str:
        """S256 of the verifier (RFC 7636)."""
        return _text(hashlib.sha256(self.verifier.encode()).digest())

    @property
    def spending(self) -> Spending:
        """Its use, once."""
        return Spending("state", hashlib.sha256(self.state.encode()).digest(), self.until_s * 1000)


def browser_secret(presented: str | None) -> str:
    """The browser's secret: the one of its cookie, so that several windows can sign in at once, or a new one."""
    return presented if presented and _BROWSER.fullmatch(presented) else secrets.token_urlsafe(32)


class Attempts:
    """Begins sign-ins, and knows them again when they come back from the provider."""

    def __init__(self, keyring: Keyring, *, clock: Callable[[], float] = time.time) -> None:
        self._keyring = keyring
        self._clock = clock

    def begin(self, browser: str, return_to: str) -> Attempt:
        content = _State(secrets.token_urlsafe(16), int(self._clock()), return_to)
        state = _text(self._keyring.seal(_ENCODER.encode(content), "state", _hashed(browser)))
        return _attempt(state, browser, content)

    def resume(self, state: str, browser: str | None) -> Attempt | None:
        """The one that this browser began; None for any other, and for one that took too long."""
        if browser is None or not _BROWSER.fullmatch(browser):
            return None
        if len(state) > STATE_MAX_CHARS or not _STATE.fullmatch(state):
            return None
        try:
            sealed = urlsafe_b64decode(state + "=" * (-len(state) % 4))
            content = _DECODER.decode(self._keyring.unseal(sealed, "state", _hashed(browser)))
        except (ValueError, Unsealable, msgspec.MsgspecError):
            return None
        if not -SKEW_S <= self._clock() - content.begun_s < LIFETIME_S or _text(sealed) != state:
            return None
        return _attempt(state, browser, content)


def _attempt(state: str, browser: str, content: _State) -> Attempt:
    def derived(purpose: str) -> str:
        return _text(hmac.digest(browser.encode(), f"{purpose}\x1f{content.random}".encode(), "sha256"))

    return Attempt(state, derived("nonce"), derived("verifier"), content.return_to, content.begun_s + LIFETIME_S)


def _hashed(browser: str) -> str:
    return hashlib.sha256(browser.encode()).hexdigest()


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
