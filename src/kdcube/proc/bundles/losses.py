"""What became of bundle hosts, for whoever operates them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from kdcube.proc.bundles.figures import HostFigures
from kdcube.proc.bundles.host import BundleHost


@dataclass(frozen=True, slots=True)
class Lost:
    """Of one bundle since proc began."""

    count: Mapping[str, int]
    """Hosts by the reason for which they were lost."""
    last: str | None
    """When and why, with the figures where it was a limit."""


class Losses:
    """Counts hosts that ended otherwise than by proc's will."""

    def __init__(self, figures: HostFigures) -> None:
        self._figures = figures
        self._counts: dict[str, Counter[str]] = {}
        self._last: dict[str, str] = {}

    def look_at(self, host: BundleHost) -> None:
        """Something about the host has changed. Each is counted once."""
        if host.loss is None or host.counted:
            return
        host.counted = True
        reason, figures = host.loss
        bundle_id = host.entry.id
        self._counts.setdefault(bundle_id, Counter())[reason] += 1
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        self._last[bundle_id] = f"{moment} {reason}: {figures}" if figures else f"{moment} {reason}"
        self._figures.lost(bundle_id, reason)

    def of(self, bundle_id: str) -> Lost:
        return Lost(dict(self._counts.get(bundle_id, {})), self._last.get(bundle_id))
