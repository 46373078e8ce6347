"""The worker: claims turns while it has room, runs each as an attempt, and drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from kdcube.proc.attempt import Attempt
from kdcube.proc.claimed import ClaimGivenUp
from kdcube.proc.desk import Desk
from kdcube.proc.lease import LeaseKeeper
from kdcube.proc.protection import Protection
from kdcube.protocol.errors import EpochMismatch, StoreUnavailable
from kdcube.protocol.ids import new_id
from kdcube.redis.connection import BlockingConnection
from kdcube.redis.keys import Keys
from kdcube.redis.queue import Claim, Stopped
from kdcube.redis.subscriber import Subscriber
from kdcube.telemetry import failpoints
from kdcube.telemetry.logging import bind

log = structlog.get_logger()

DOORBELL_S = 1.5
"""How long a wait for the doorbell lasts: a ring that was lost costs no more (rule 25)."""
PASSED_ON_S = 0.25
"""Between two looks while work waits that has no room here: each ring is for others then."""
_STOPPED_LOOK_S = 2.0
_RETRY_S = 0.2


class Worker:
    """Claims for one proc. ``slots``: turns that may run at once."""

    def __init__(
        self,
        desk: Desk,
        *,
        keys: Keys,
        slots: int,
        revision: str,
        doorbell: BlockingConnection,
        subscriber: Subscriber,
        ring: Callable[[], None],
        leases: LeaseKeeper,
        protection: Protection,
    ) -> None:
        self._desk = desk
        self._keys = keys
        self.slots = slots
        self._revision = revision
        self._doorbell = doorbell
        self._subscriber = subscriber
        self._ring = ring
        self._leases = leases
        self._protection = protection
        self._attempts: dict[str, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._occupied = 0
        self._room = asyncio.Event()
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._claiming: asyncio.Task[None] | None = None
        self._in_claim = False
        self.draining = False

    @property
    def running(self) -> int:
        """Turns under a claim of this worker."""
        return len(self._attempts)

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[asyncio.Task[None]]:
        """Claims as long as the context is open, in the task that it gives; on exit what still runs is interrupted."""
        channel = self._keys.worker_channel(self._desk.worker_id)
        self._subscriber.subscribe(channel, self._hear)
        self._claiming = asyncio.create_task(self._claim_forever(), name="claiming")
        try:
            yield self._claiming
        finally:
            await self._stop_claiming()
            for attempt in list(self._attempts.values()):
                attempt.interrupt("shutdown")
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._subscriber.unsubscribe(channel, self._hear)

    def room_changed(self) -> None:
        """A slot or a bundle host has become free."""
        self._room.set()

    async def drain(self, timeout_s: float, interrupt_s: float = 5.0) -> None:
        """Stops claiming, hands back what has not started, lets turns finish, then ends the rest as interrupted."""
        self.draining = True
        await self._stop_claiming()
        for attempt in self._attempts.values():
            attempt.hand_back()
        log.info("draining", running=self.running, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_done.wait()
        except TimeoutError:
            log.warning("interrupting what did not finish in time", running=self.running)
            for attempt in list(self._attempts.values()):
                attempt.interrupt("drain")
            try:
                async with asyncio.timeout(interrupt_s):
                    await self._all_done.wait()
            except TimeoutError:
                log.error("turns are left to the reaper", running=self.running)
                for task in list(self._tasks):  # else they wait for a store that is away, and the process for them
                    task.cancel()

    async def _stop_claiming(self) -> None:
        """A claim that is under way is waited for: its reply may hold turns."""
        self.draining = True
        claiming, self._claiming = self._claiming, None
        if claiming is None:
            return
        if not self._in_claim:
            claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)

    def lost(self, turn_id: str, claim_id: str) -> None:
        """The keeper of leases says that this lease is lost."""
        attempt = self._attempts.get(turn_id)
        if attempt and attempt.claim_id == claim_id:
            log.warning("lease lost", turn_id=turn_id)
            self._desk.figures.lost()
            attempt.lose()

    def cancelled(self, turn_id: str, claim_id: str) -> None:
        """PostgreSQL has a cancel of this turn."""
        attempt = self._attempts.get(turn_id)
        if attempt and attempt.claim_id == claim_id:
            attempt.cancel()

    def _hear(self, payload: bytes | None) -> None:
        if payload is None:  # subscribed (again): steers may have been missed; cancels come with the renewal
            for attempt in self._attempts.values():
                self._own(attempt.take_steers())
            return
        word, turn_id, claim_id = payload.decode().split(" ")
        if word == "cancel":
            self.cancelled(turn_id, claim_id)
        elif word == "steer":
            attempt = self._attempts.get(turn_id)
            if attempt and attempt.claim_id == claim_id:
                self._own(attempt.take_steers())

    async def _claim_forever(self) -> None:
        while not self.draining:
            try:
                await self._claim_once()
            except StoreUnavailable as error:
                log.warning("cannot claim", error=str(error))
                await asyncio.sleep(_RETRY_S)
            except EpochMismatch:
                self._desk.epoch_watch.suspect()
                if not self.draining:  # else a drain waits for this task: it was claiming
                    await self._desk.epoch_watch.wait_for()

    async def _claim_once(self) -> None:
        self._room.clear()
        free = self.slots - self._occupied
        room = self._desk.pool.room() if free > 0 else {}
        if not room:
            await self._room.wait()
            return
        if not self._protection.held and not await self._desk.queue.waiting():
            # Without work the task stays unprotected, so that it may be scaled in.
            await self._doorbell.blpop(self._keys.doorbell, DOORBELL_S)
            return
        await self._protection.acquire()
        wanted = min(free, sum(room.values()))
        self._in_claim = True
        try:
            claims = await self._claim(room, wanted)
        finally:
            self._in_claim = False
        if self.draining:
            return
        if claims is None:
            await asyncio.sleep(_STOPPED_LOOK_S)
        elif claims == [] and self._attempts and await self._desk.queue.waiting():
            await self._pass_on()
        elif len(claims) < wanted:
            if not self._attempts:
                await self._protection.release()
            await self._doorbell.blpop(self._keys.doorbell, DOORBELL_S)

    async def _pass_on(self) -> None:
        """What waits is for bundles that have no room here: whoever has some shall hear the ring that came here."""
        self._ring()
        with suppress(TimeoutError):
            async with asyncio.timeout(PASSED_ON_S):
                await self._room.wait()

    async def _claim(self, room: dict[str, int], wanted: int) -> list[Claim] | None:
        epoch = self._desk.epoch_watch.current
        claim_ids = [new_id() for _ in range(wanted)]
        while True:
            sent_at = time.monotonic()
            try:
                claims = await self._desk.queue.claim(
                    epoch=epoch,
                    worker_id=self._desk.worker_id,
                    revision=self._revision,
                    room=room,
                    claim_ids=claim_ids,
                )
                await failpoints.hit("proc.claim.after")
                break
            except StoreUnavailable as error:  # the reply may be lost: the same claim ids find what they claimed
                if self.draining:  # the leases of what it may have claimed run out
                    return []
                log.warning("claim repeated", error=str(error))
                await asyncio.sleep(_RETRY_S)
        if isinstance(claims, Stopped):
            log.info("this revision must not claim", revision=self._revision)
            return None
        for claim in claims:
            self._begin(claim, epoch, sent_at)
        return claims

    def _begin(self, claim: Claim, epoch: int, sent_at: float) -> None:
        self._desk.figures.claimed(claim.envelope.user_type)
        attempt = Attempt(self._desk, claim, epoch=epoch, on_slot_free=self._free_slot)
        self._attempts[claim.envelope.turn_id] = attempt
        self._all_done.clear()
        self._occupied += 1
        self._leases.add(claim.envelope.turn_id, claim.claim_id, sent_at=sent_at)
        if self.draining:
            attempt.hand_back()
        self._own(self._run(attempt))

    async def _run(self, attempt: Attempt) -> None:
        turn_id = attempt.envelope.turn_id
        try:
            trace = attempt.envelope.trace
            ids = {"turn_id": turn_id, "request_id": attempt.envelope.request_id}
            bind(**ids, trace_id=trace.trace_id) if trace else bind(**ids)
            await attempt.run()
        except ClaimGivenUp:
            log.warning("claim given up", turn_id=turn_id)
        except Exception:
            log.exception("an attempt broke", turn_id=turn_id)
            raise
        finally:
            self._leases.remove(turn_id, attempt.claim_id)
            if self._attempts.get(turn_id) is attempt:
                del self._attempts[turn_id]
            if not self._attempts:
                self._all_done.set()

    def _free_slot(self) -> None:
        self._occupied -= 1
        self._room.set()

    def _own(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
