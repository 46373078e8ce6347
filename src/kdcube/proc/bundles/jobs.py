"""What proc hands to a bundle host and what comes back: jobs, sinks, outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import TurnEnvelope
from kdcube.sdk.wire import Delta, Emit, HistoryItem, Service, Step

__all__ = [
    "BundleUnavailable",
    "Cancelled",
    "Completed",
    "Delta",
    "Emit",
    "Failed",
    "HistoryItem",
    "HostLost",
    "LostReason",
    "Outcome",
    "Service",
    "Steer",
    "Step",
    "TurnJob",
    "TurnSink",
    "TurnTooLarge",
]


@dataclass(frozen=True, slots=True)
class TurnJob:
    """One attempt of a turn, ready to run. ``secrets`` are only those that the registry grants to the bundle;
    ``unreadable`` are those of them that could not be read, with the reasons.
    """

    envelope: TurnEnvelope
    attempt: int
    history: list[HistoryItem] = field(default_factory=list[HistoryItem])
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    secrets: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    unreadable: dict[str, str] = field(default_factory=dict[str, str])
    trace: TraceContext | None = None
    """What the bundle's work belongs to."""


@dataclass(frozen=True, slots=True)
class Steer:
    """A message for the running turn."""

    steer_id: str
    text: str
    payload: dict[str, Any] = field(default_factory=dict[str, Any])


class TurnSink(Protocol):
    """Takes what a running turn says."""

    def emit(self, frame: Emit) -> None:
        """One event, in order. Must not raise and must not wait; what it holds is bounded by the turn's credit."""
        ...

    async def apply(self, steer_ids: list[str]) -> set[str]:
        """Commits that the bundle takes these steers; returns those that it may take. The others are dropped here."""
        ...


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned. ``state`` is the whole new ``turn.state``, None when it did not change."""

    state: dict[str, Any] | None = None
    untaken_steers: tuple[str, ...] = ()
    """Steers that were applied for a handler which ended before it had them: they deserve a turn of their own."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised. ``message`` is fit for the user; ``detail`` (a traceback) is for the operator only."""

    code: str
    message: str
    retryable: bool = False
    detail: str = ""
    untaken_steers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The turn was cancelled by ``RunningTurn.cancel`` and its handler has ended."""


LostReason = Literal[
    "crash",
    "no_beat",
    "idle_limit",
    "wall_limit",
    "unresponsive_cancel",
    "memory_limit",
    "process_limit",
    "temp_limit",
    "wire",
    "lease_lost",
    "killed",
]


@dataclass(frozen=True, slots=True)
class HostLost:
    """The turn did not end by itself.

    ``idle_limit`` and ``wall_limit``: the turn passed its limit. ``unresponsive_cancel``: a cancel was not answered in
    time. ``crash``: the process ended. ``no_beat``: it was killed because its interpreter stood still.
    ``memory_limit``, ``process_limit``, ``temp_limit``: it was killed because it took more than its entry allows.
    ``wire``: it was killed because it broke the wire protocol. ``lease_lost``: its lease was, or that of a turn beside
    it that did not stop. ``killed``: the pool was closed. Code of the turn may still run until ``RunningTurn.exited``
    is done.
    """

    reason: LostReason
    detail: str = field(default="", compare=False)
    """For the operator: the figures of a limit."""


Outcome = Completed | Failed | Cancelled | HostLost


class BundleUnavailable(KDCubeError):
    """No host of this bundle can take the turn."""

    def __init__(self, bundle_id: str, reason: str) -> None:
        super().__init__(f"bundle {bundle_id} is not available: {reason}")
        self.bundle_id = bundle_id
        self.reason = reason


class TurnTooLarge(KDCubeError):
    """The turn with its history and state does not fit into one frame of the wire (4 MiB)."""
