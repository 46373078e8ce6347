"""Room for one turn in a host."""

from __future__ import annotations

from collections.abc import Callable

from kdcube.proc.bundles.host import BundleHost
from kdcube.proc.bundles.jobs import BundleUnavailable, TurnJob, TurnSink
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.turns import RunningTurn


class VersionGone(BundleUnavailable):
    """No host runs the version any more that the turn was to run; there is another one. Nothing of the turn has run."""


class Seat:
    """The version that a turn runs is decided when its seat is taken, whatever is released until it starts: its host
    stays for it. ``left`` when it is used, or given back.
    """

    def __init__(
        self, release: BundleRelease, host: BundleHost, *, another: Callable[[str], BundleHost],
        attempts: Callable[[], int],
    ) -> None:  # fmt: skip
        """``another`` finds a host of a version. ``attempts`` is what the release that is active then allows."""
        self.release = release
        self.version = host.version
        self._declared = max(host.max_attempts, release.entry.max_attempts)
        self._another = another
        self._attempts = attempts
        self._host: BundleHost | None = host
        host.take_seat()

    @property
    def max_attempts(self) -> int:
        """A turn is repeated only if the release that ran it allows that, and the one that would run it now."""
        return min(self._declared, self._attempts())

    def start(self, job: TurnJob, sink: TurnSink) -> RunningTurn:
        """Hands the turn to the host, or to another of the same version if that one was lost.

        Raises BundleUnavailable while there is none, VersionGone when there will be none, TurnTooLarge: then
        nothing has run.
        """
        if self._host is None or self._host.failing:
            self.leave()
            self._host = self._another(self.version)
            self._host.take_seat()
        turn = self._host.start(job, sink)
        self.leave()
        return turn

    def leave(self) -> None:
        """The turn has started, or is not going to. A second call does nothing."""
        host, self._host = self._host, None
        if host is not None:
            host.leave_seat()
