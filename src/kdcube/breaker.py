"""A circuit breaker: while a dependency fails, callers are refused at once instead of waiting for it in a pile.

Closed, calls pass, and so many failures in a row open it. Open, calls are refused. After a rest it is half open: one
call passes as the probe, and its outcome closes the breaker or opens it again, for longer. No I/O, no task, no lock:
it lives on one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum

from kdcube.protocol.errors import StoreUnavailable


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Guards the calls to ``dependency``. ``failures`` in a row open it, for ``rest_s`` at first, doubled with each
    probe that fails up to ``max_rest_s``.

    With ``own_probe`` no caller is made the probe: whoever owns the breaker probes, under ``probing``.
    """

    def __init__(
        self,
        dependency: str,
        *,
        failures: int = 3,
        rest_s: float = 0.5,
        max_rest_s: float = 2.0,
        own_probe: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dependency = dependency
        self._failures = failures
        self._min_rest_s = rest_s
        self._max_rest_s = max_rest_s
        self._own_probe = own_probe
        self._monotonic = monotonic
        self._in_a_row = 0
        self._rest_s = rest_s
        self._open_until: float | None = None
        self._probe: object | None = None
        self._times_opened = 0
        self.reason = ""
        """Why it opened last."""
        self.on_change: list[Callable[[State], None]] = []
        """Called when it has opened (also again, after a probe) and when it has closed."""

    @property
    def state(self) -> State:
        if self._open_until is None:
            return State.CLOSED
        return State.HALF_OPEN if self._probe or self._monotonic() >= self._open_until else State.OPEN

    @property
    def times_opened(self) -> int:
        """How often it went from closed to open."""
        return self._times_opened

    @property
    def retry_after_s(self) -> float:
        """When the next probe is due; 0 when it is closed."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._monotonic())

    def check(self) -> None:
        """Raises StoreUnavailable when a call would be refused now. Takes no probe."""
        if self._open_until is not None and (self._own_probe or self._probe or self.retry_after_s):
            raise self._refusal()

    @contextmanager
    def guarding(self) -> Generator[None]:
        """Around one call. Raises StoreUnavailable when it is refused.

        A StoreUnavailable that comes out of it is a failure; whatever else comes shows that the dependency answers,
        but for a cancellation, which shows nothing.
        """
        self.check()
        with self._watching():
            yield

    @contextmanager
    def probing(self) -> Generator[None]:
        """As ``guarding``, for the owner's probe, which is never refused. One at a time."""
        with self._watching():
            yield

    @contextmanager
    def _watching(self) -> Generator[None]:
        probe = None if self._open_until is None else object()
        if probe is not None:
            self._probe = probe
        try:
            yield
        except StoreUnavailable as error:
            self._failed(str(error), probe)
            raise
        except Exception:
            self.close()
            raise
        except BaseException:  # cancelled: the next one probes
            if self._probe is probe:
                self._probe = None
            raise
        self.close()

    def trip(self, reason: str) -> None:
        """Opens it at once: the owner knows that the dependency is away."""
        if self._open_until is None:
            self._open(reason)

    def close(self) -> None:
        """Closes it at once: the owner knows that the dependency is there."""
        self._in_a_row = 0
        self._probe = None
        if self._open_until is not None:
            self._open_until = None
            self._rest_s = self._min_rest_s
            self._tell(State.CLOSED)

    def _failed(self, reason: str, probe: object | None) -> None:
        if self._open_until is None:
            self._in_a_row += 1
            if self._in_a_row >= self._failures:
                self._open(reason)
        elif probe is not None and self._probe is probe:
            self._probe = None
            self._rest_s = min(self._rest_s * 2, self._max_rest_s)
            self._open_until = self._monotonic() + self._rest_s
            self.reason = reason
            self._tell(State.OPEN)

    def _open(self, reason: str) -> None:
        self._times_opened += 1
        self._open_until = self._monotonic() + self._rest_s
        self.reason = reason
        self._tell(State.OPEN)

    def _tell(self, state: State) -> None:
        for listener in tuple(self.on_change):
            listener(state)

    def _refusal(self) -> StoreUnavailable:
        return StoreUnavailable(self.dependency, "it does not answer; it is being tried again", refused=True)
