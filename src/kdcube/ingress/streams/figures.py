"""What the streams of one process have done since it began."""

from __future__ import annotations

from enum import StrEnum

from kdcube.telemetry.instruments import Instruments


class StreamKind(StrEnum):
    USER = "user"
    TURN = "turn"
    COMPLETION = "completion"


class EndReason(StrEnum):
    """Why a stream ended."""

    COMPLETED = "completed"
    LEFT = "left"
    """The client went, or lost its connection."""
    DRAINED = "drained"
    STALLED = "stalled"
    """The client took nothing for too long."""
    CUT = "cut"
    """Its login or API key was over."""
    FAILED = "failed"


class StreamFigures:
    """The counters, each kept at hand: they change with every write."""

    __slots__ = ("_ended", "_opened", "_resumed", "bytes", "events", "resyncs")

    def __init__(self, instruments: Instruments) -> None:
        self._opened = {kind: instruments.counter("streams_opened", kind=kind) for kind in StreamKind}
        self._resumed = {kind: instruments.counter("streams_resumed", kind=kind) for kind in StreamKind}
        self._ended = {reason: instruments.counter("streams_ended", reason=reason) for reason in EndReason}
        self.events = instruments.counter("stream_events")
        self.bytes = instruments.counter("stream_bytes")
        self.resyncs = instruments.counter("stream_resyncs")

    def opened(self, kind: StreamKind, *, resumed: bool) -> None:
        self._opened[kind].add()
        if resumed:
            self._resumed[kind].add()

    def ended(self, reason: EndReason) -> None:
        self._ended[reason].add()
