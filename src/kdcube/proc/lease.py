"""The thread that keeps a worker's leases and heartbeat, whatever the event loop does (rule 8)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from kdcube.redis.renewal import Renewal

log = structlog.get_logger()

RENEWALS = 3
"""Renewals in the time of one lease: every 5 of 15 s."""
STALL_LIMIT_S = 30.0
"""An event loop that stood still for so long gets no more renewals."""
MARGIN = 0.2
"""Work stops this share of a lease (3 of 15 s) before it can run out, by the monotonic clock."""


@dataclass(slots=True)
class _Lease:
    claim_id: str
    sent_at: float
    """When the last renewal that succeeded was sent."""


class LeaseKeeper:
    """Renews the leases that it is told of. Callbacks run in the keeper's thread: hand them on to the loop."""

    def __init__(
        self,
        renewal: Renewal,
        *,
        lease_s: float,
        on_lost: Callable[[str, str], None],
        on_cancelled: Callable[[str, str], None],
        on_alive: Callable[[], None] = lambda: None,
        beat_every_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``beat_every_s``: heartbeats more often than renewals; each heartbeat renews as well. ``on_alive`` is called
        about twice a second while leases may be renewed.
        """
        self._renewal = renewal
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._on_cancelled = on_cancelled
        self._on_alive = on_alive
        self._clock = clock
        self._renew_every_s = min(lease_s / RENEWALS, beat_every_s)
        self._leases: dict[str, _Lease] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._loop_seen = clock()
        self._next_renewal = 0.0
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; leases are left to run out or to be released by their turns."""
        self._stop.set()
        self._thread.join()

    def loop_is_alive(self) -> None:
        """The event loop calls this every second or so."""
        self._loop_seen = self._clock()

    def hurry(self) -> None:
        """Beat and renew at the next look (within half a second): Valkey is back, or may be."""
        self._next_renewal = 0.0

    def add(self, turn_id: str, claim_id: str, *, sent_at: float) -> None:
        """Keeps a lease. ``sent_at``: when its claim was sent."""
        with self._lock:
            self._leases[turn_id] = _Lease(claim_id, sent_at)

    def remove(self, turn_id: str, claim_id: str) -> None:
        with self._lock:
            lease = self._leases.get(turn_id)
            if lease and lease.claim_id == claim_id:
                del self._leases[turn_id]

    def _run(self) -> None:
        while not self._stop.is_set():
            now = self._clock()
            if self.may_renew():
                self._on_alive()
                if now >= self._next_renewal:
                    self._next_renewal = now + self._renew_every_s
                    if not self._renewed():
                        self.hurry()
            self.expire()
            self._stop.wait(min(0.5, self._renew_every_s / 4))
        self._renewal.close()

    def _renewed(self) -> bool:
        try:
            return self.renew()
        except Exception:
            log.exception("leases were not renewed")
            return False  # whatever it was, leases that run out must be given up

    def may_renew(self) -> bool:
        """False while the event loop stands still: its turns are not being served."""
        stalled_s = self._clock() - self._loop_seen
        if stalled_s > STALL_LIMIT_S:
            log.error("the event loop stands still: leases are not renewed", stalled_s=round(stalled_s))
        return stalled_s <= STALL_LIMIT_S

    def renew(self) -> bool:
        """One heartbeat and renewal of everything; False when Valkey did not take it (it is tried again soon)."""
        with self._lock:
            claims = {turn: lease.claim_id for turn, lease in self._leases.items()}
        sent_at = self._clock()
        renewed = self._renewal.renew(claims)
        if renewed is None:
            return False
        with self._lock:
            for turn, claim_id in claims.items():
                lease = self._leases.get(turn)
                if lease and lease.claim_id == claim_id and turn not in renewed.lost:
                    lease.sent_at = sent_at
        for turn in renewed.lost:
            self._on_lost(turn, claims[turn])
        for turn in renewed.cancelled:
            self._on_cancelled(turn, claims[turn])
        return True

    def expire(self) -> None:
        """Gives up the leases that Valkey may soon give to somebody else."""
        deadline = self._clock() - self._lease_s * (1 - MARGIN)
        with self._lock:
            given_up = [(turn, lease.claim_id) for turn, lease in self._leases.items() if lease.sent_at < deadline]
            for turn, _ in given_up:
                del self._leases[turn]
        for turn, claim_id in given_up:
            self._on_lost(turn, claim_id)
