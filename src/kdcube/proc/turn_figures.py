"""What proc counts of turns."""

from __future__ import annotations

import re
from typing import Any, cast

from kdcube.protocol.turns import TurnState, UserType
from kdcube.telemetry.instruments import Histogram, Instruments

MODELS_MAX = 32
"""Names of models are the bundles': so many are told apart, the others are one."""
OTHER = "other"
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}")
_TOKENS_MAX = 10**9
"""What a single call cannot have used."""


class TurnFigures:
    """Of the turns of one proc, and of those that it settles for others.

    What is to be noticed when it happens for the first time stands at 0 before: Prometheus sees no increase in a
    counter that begins with its first event.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        for name in ("claims_returned", "leases_lost", "working_state_rebuilds"):
            instruments.counter(name)
        for state in (TurnState.CLAIMED, TurnState.RUNNING):
            instruments.counter("leases_expired", state=state)
        self._models: set[str] = set()
        self._first_outputs: dict[str, Histogram] = {}

    def claimed(self, user_type: UserType) -> None:
        self._instruments.counter("claims", user_type=user_type).add()

    def returned(self) -> None:
        """A claimed turn goes back to the queue."""
        self._instruments.counter("claims_returned").add()

    def lost(self) -> None:
        """A lease of this worker is lost."""
        self._instruments.counter("leases_lost").add()

    def expired(self, state: TurnState) -> None:
        """The reaper settles a turn whose lease has run out."""
        self._instruments.counter("leases_expired", state=state).add()

    def rebuilt(self) -> None:
        """Valkey's working state is built anew."""
        self._instruments.counter("working_state_rebuilds").add()

    def started(self, bundle_id: str, user_type: UserType, attempt: int, waited_ms: int) -> None:
        """START is committed, ``waited_ms`` after the acceptance."""
        instruments = self._instruments
        instruments.counter("attempts", bundle=bundle_id).add()
        instruments.counter("attempts_repeated", bundle=bundle_id).add(attempt > 1)
        instruments.histogram("turn_wait_seconds", user_type=user_type).observe(max(0, waited_ms) / 1000)

    def spoke(self, bundle_id: str, after_s: float) -> None:
        """The first that an attempt's bundle says."""
        histogram = self._first_outputs.get(bundle_id)
        if histogram is None:
            histogram = self._instruments.histogram("turn_first_output_seconds", bundle=bundle_id)
            self._first_outputs[bundle_id] = histogram
        histogram.observe(after_s)

    def ended(self, bundle_id: str, state: TurnState, ran_ms: int | None = None) -> None:
        """The end is committed; ``ran_ms`` since START, None for a turn that did not run here."""
        self._instruments.counter("turns_ended", bundle=bundle_id, state=state).add()
        if ran_ms is not None:
            runs = self._instruments.histogram("turn_run_seconds", bundle=bundle_id, state=state)
            runs.observe(max(0, ran_ms) / 1000)

    def used(self, bundle_id: str, data: Any) -> None:
        """What a bundle says in ``turn.usage``. What is no such thing counts for nothing: anything may come here."""
        if not isinstance(data, dict):
            return
        said = cast("dict[str, Any]", data)
        model = self._model(said.get("model"))
        for direction in ("input", "output"):
            tokens = said.get(f"{direction}_tokens")
            if type(tokens) is int and 0 < tokens <= _TOKENS_MAX:
                self._instruments.counter("tokens_used", bundle=bundle_id, direction=direction, model=model).add(tokens)

    def _model(self, name: object) -> str:
        if not isinstance(name, str) or not _MODEL.fullmatch(name):
            return OTHER
        if name not in self._models and len(self._models) >= MODELS_MAX:
            return OTHER
        self._models.add(name)
        return name
