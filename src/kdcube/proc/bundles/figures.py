"""What proc counts of its bundle hosts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kdcube.telemetry.instruments import Histogram, Instruments, Labelled

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class HostFigures:
    """Of all bundles, by id."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._lags: dict[str, Histogram] = {}

    def started(self, bundle_id: str) -> None:
        """A host has loaded."""
        self._instruments.counter("hosts_started", bundle=bundle_id).add()

    def lost(self, bundle_id: str, reason: str) -> None:
        """A host ended otherwise than by proc's will."""
        self._instruments.counter("hosts_lost", bundle=bundle_id, reason=reason).add()

    def lag(self, bundle_id: str, seconds: float) -> None:
        """A host's event loop kept others waiting for so long."""
        lags = self._lags.get(bundle_id)
        if lags is None:
            lags = self._lags[bundle_id] = self._instruments.histogram("host_loop_lag_seconds", bundle=bundle_id)
        lags.observe(seconds)

    def watch(self, pids: Callable[[], Mapping[str, Sequence[int]]]) -> None:
        """``pids`` gives the processes that there are, by bundle."""

        def measured(by: Callable[[Sequence[int]], float]) -> Labelled:
            return [({"bundle": bundle_id}, by(of_bundle)) for bundle_id, of_bundle in pids().items()]

        self._instruments.gauges("hosts", lambda: measured(len))
        self._instruments.gauges("host_memory_bytes", lambda: measured(lambda these: sum(map(_resident_bytes, these))))


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0  # it has just ended
