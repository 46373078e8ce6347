"""Spans: pieces of work with a beginning and an end, each in its trace. They are recorded where somebody collects them.

Work asks ``tracing.begin`` for a span and passes on the span's ``context``, whether or not anything is recorded. What
costs time only to be recorded stands behind ``if span.recording``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from kdcube.protocol.trace_context import TraceContext

Attributes: TypeAlias = Mapping[str, str | int | bool]


class Kind(Enum):
    """What a span is to its parent, as OpenTelemetry has it."""

    INTERNAL = "internal"
    SERVER = "server"
    """The answer to a request."""
    CONSUMER = "consumer"
    """What was asked for earlier, and waited in a queue."""


class Span(Protocol):
    """One piece of work. ``with`` ends it, as failed if an exception leaves the block. Nothing here raises or waits."""

    @property
    def context(self) -> TraceContext:
        """For the work that belongs to it."""
        ...

    @property
    def recording(self) -> bool:
        """Whether anybody will see what is said of it."""
        ...

    def rename(self, name: str) -> None: ...

    def set(self, attributes: Attributes) -> None: ...

    def fail(self, why: str) -> None:
        """It has gone wrong; ``why`` is a short word out of few."""
        ...

    def end(self, at_ms: int | None = None) -> None:
        """Now, or at a Unix time. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracing(Protocol):
    """Makes spans."""

    @property
    def on(self) -> bool:
        """Whether any are recorded."""
        ...

    @property
    def sent(self) -> int:
        """Spans that the collector has taken."""
        ...

    @property
    def lost(self) -> int:
        """Spans that it has not."""
        ...

    def begin(
        self, name: str, parent: TraceContext | None, kind: Kind = Kind.INTERNAL, *, at_ms: int | None = None
    ) -> Span:
        """A span that begins now, or began at a Unix time. Without a parent it begins a trace."""
        ...


class Unrecorded:
    """A span that only hands its parent's context on: whoever records nothing must not stand in the trace."""

    __slots__ = ("context",)
    recording = False

    def __init__(self, context: TraceContext) -> None:
        self.context = context

    def rename(self, name: str) -> None:
        pass

    def set(self, attributes: Attributes) -> None:
        pass

    def fail(self, why: str) -> None:
        pass

    def end(self, at_ms: int | None = None) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class NoTracing:
    """Where nobody collects spans."""

    on = False
    sent = 0
    lost = 0

    def begin(
        self, name: str, parent: TraceContext | None, kind: Kind = Kind.INTERNAL, *, at_ms: int | None = None
    ) -> Unrecorded:
        return Unrecorded(parent if parent is not None else TraceContext.new())


NO_TRACING = NoTracing()
