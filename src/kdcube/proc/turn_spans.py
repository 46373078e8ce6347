"""The spans of one attempt: how long its turn waited, how long it ran, and what of that was the bundle's."""

from __future__ import annotations

from kdcube.proc.bundles.jobs import Cancelled, Completed, Outcome
from kdcube.protocol.errors import KDCubeError
from kdcube.protocol.trace_context import TraceContext
from kdcube.protocol.turns import TurnEnvelope, TurnState
from kdcube.telemetry.tracing import Kind, Span, Tracing


class TurnSpans:
    """``close`` ends what is open, however the attempt left off."""

    def __init__(self, tracing: Tracing, envelope: TurnEnvelope) -> None:
        self._tracing = tracing
        self._envelope = envelope
        self._run: Span | None = None
        self._bundle: Span | None = None

    def started(self, *, attempt: int, version: str, accepted_ms: int, started_ms: int) -> None:
        """START is committed. Both times are those of the stores, as they stand in the turn's row."""
        envelope, trace = self._envelope, self._envelope.trace
        if attempt == 1 and self._tracing.on:
            wait = self._tracing.begin("turn.wait", trace, at_ms=accepted_ms)
            wait.set({"kdcube.turn_id": envelope.turn_id, "kdcube.user_type": envelope.user_type.value})
            wait.end(max(accepted_ms, started_ms))
        self._run = run = self._tracing.begin("turn.run", trace, Kind.CONSUMER)
        if run.recording:
            run.set(
                {
                    "kdcube.turn_id": envelope.turn_id,
                    "kdcube.conversation_id": envelope.conversation_id,
                    "kdcube.request_id": envelope.request_id,
                    "kdcube.user_type": envelope.user_type.value,
                    "kdcube.bundle_id": envelope.bundle_id,
                    "kdcube.bundle_version": version,
                    "kdcube.attempt": attempt,
                }
            )

    def to_bundle(self) -> TraceContext:
        """The turn goes to its bundle now; what the bundle does belongs to what this returns."""
        run = self._run
        self._bundle = self._tracing.begin("turn.bundle", self._envelope.trace if run is None else run.context)
        return self._bundle.context

    def bundle_ended(self, outcome: Outcome | KDCubeError) -> None:
        """What came of it is known, even if the log does not say it all yet."""
        bundle = self._bundle
        if bundle is not None and bundle.recording:
            kind = type(outcome).__name__
            bundle.set({"kdcube.outcome": kind})
            if not isinstance(outcome, Completed | Cancelled):
                bundle.fail(kind)
            bundle.end()

    def ended(self, state: TurnState, error_code: str | None) -> None:
        """The end is committed."""
        run = self._run
        if run is not None and run.recording:
            run.set({"kdcube.turn_state": state.value})
            if error_code is not None:
                run.fail(error_code)
            run.end()

    def close(self) -> None:
        for span in (self._bundle, self._run):
            if span is not None:
                span.end()
