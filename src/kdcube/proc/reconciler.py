"""The reconciler: keeps Valkey's working state equal to what PostgreSQL knows (rules 13, 14 and 16)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection

import structlog

from kdcube.postgres.epochs import Epochs
from kdcube.postgres.records import Unfinished as Row
from kdcube.postgres.turns import Turns
from kdcube.proc.outcomes import line_of
from kdcube.proc.turn_figures import TurnFigures
from kdcube.protocol.turns import TurnState
from kdcube.redis.epoch import Unfinished, WorkingState
from kdcube.redis.queue import Queue
from kdcube.redis.server import ServerFacts
from kdcube.redis.workers import Workers
from kdcube.telemetry import failpoints
from kdcube.telemetry.instruments import Instruments

log = structlog.get_logger()

READMIT_AFTER_MS = 10_000
"""A queued row that Valkey lacks is older than any admission that is still under way."""
_PAGE = 1000
BUNDLE_LIMIT_S = 60.0
"""So long a turn waits for a bundle that no live worker offers (rule 25)."""
_QUEUE_TIMEOUT = {
    "code": "queue_timeout",
    "message": "The message waited too long and was not run; please send it again.",
}
_BUNDLE_UNAVAILABLE = {
    "code": "bundle_unavailable",
    "message": "The application is not available now; please try again later.",
}


class Reconciler:
    """``queue_limit_s``: a turn that waited longer fails with ``queue_timeout``; ``bundle_limit_s``: one whose bundle
    nobody offers, with ``bundle_unavailable``. ``registered`` gives the bundles that there are."""

    def __init__(
        self,
        *,
        turns: Turns,
        epochs: Epochs,
        queue: Queue,
        working_state: WorkingState,
        workers: Workers,
        queue_limit_s: float,
        bundle_limit_s: float = BUNDLE_LIMIT_S,
        registered: Callable[[], Collection[str]] | None = None,
        figures: TurnFigures | None = None,
    ) -> None:
        self._figures = figures or TurnFigures(Instruments())
        self._turns = turns
        self._epochs = epochs
        self._queue = queue
        self._working_state = working_state
        self._workers = workers
        self.queue_limit_s = queue_limit_s
        self._bundle_limit_s = bundle_limit_s
        self._registered = registered

    async def ensure_epoch(self, facts: ServerFacts, *, on_rebuilt: Callable[[], None]) -> int:
        """The epoch under which all is well: the published one, or a new one after a rebuild.

        Rebuilt is what is missing, what another server wrote (a restart, a replica that took over), and what
        PostgreSQL does not know as the current epoch.
        """
        epoch = await self._working_state.epoch()
        if (
            epoch is not None
            and await self._working_state.written_by() == facts.run_id
            and epoch == await self._epochs.current()
        ):
            return epoch
        on_rebuilt()
        rebuilt = await self._rebuild(facts)
        on_rebuilt()
        return rebuilt

    async def _rebuild(self, facts: ServerFacts) -> int:
        """A new epoch from PostgreSQL: turns, occupancy, order. Published last."""
        epoch = await self._epochs.next()
        log.warning("rebuilding the working state", epoch=epoch)
        self._figures.rebuilt()
        await self._working_state.begin(epoch)
        # From here on PostgreSQL refuses STARTs of the old epoch, so that no row starts behind our back.
        await self._epochs.publish(epoch)
        await failpoints.hit("proc.rebuild.after_begin")
        await self._turns.settle_orphan_steers()
        count = 0
        waiting: list[Unfinished] = []
        async for row in self._rows():
            turn = as_unfinished(row)
            if turn is None:
                continue
            if turn.state is TurnState.RUNNING:  # first: they occupy their conversations
                count += await self._working_state.restore(turn, epoch=epoch)
            else:
                waiting.append(turn)
        for row in await self._turns.lingering():
            if turn := as_unfinished(row):
                count += await self._working_state.restore(turn, epoch=epoch)
        for turn in waiting:
            count += await self._working_state.restore(turn, epoch=epoch)
        await failpoints.hit("proc.rebuild.before_publish")
        await self._working_state.publish(epoch, max_order=await self._turns.max_order(), run_id=facts.run_id)
        log.warning("working state rebuilt", epoch=epoch, turns=count)
        return epoch

    async def reconcile(self, epoch: int) -> None:
        """Puts back what Valkey lacks and ends what has waited too long."""
        await self._turns.settle_orphan_steers()
        for row in await self._turns.queued_longer_than(int(self.queue_limit_s * 1000)):
            await self._fail(row, epoch, _QUEUE_TIMEOUT)
        offered = {bundle for info in (await self._workers.live()).values() for bundle in info.get("bundles", ())}
        registered = self._registered() if self._registered else None
        for row in await self._turns.queued_longer_than(int(self._bundle_limit_s * 1000)):
            # Without any worker all wait; but what is not registered any more, no worker is going to offer.
            bundle_id = row.turn.bundle_id
            if bundle_id not in offered and (offered or (registered is not None and bundle_id not in registered)):
                await self._fail(row, epoch, _BUNDLE_UNAVAILABLE)
        await self._put_back(await self._turns.queued_longer_than(READMIT_AFTER_MS), epoch)
        async for page in self._pages():
            begun = [row for row in page if row.turn.state is not TurnState.QUEUED]
            await self._put_back(begun, epoch)
            for row in begun:
                if row.turn.state is TurnState.RUNNING and row.turn.cancel_requested:
                    # Whoever committed the cancel may not have told the worker.
                    await self._queue.cancel(row.turn.turn_id, epoch=epoch)

        await self._put_back_lingering(epoch)

    async def _put_back_lingering(self, epoch: int) -> None:
        """Whose worker died before Valkey knew: under a lease that nobody renews, the reaper ends them."""
        missing = await self._working_state.missing([row.turn.turn_id for row in await self._turns.lingering()])
        if missing:  # asked again: what has left meanwhile left PostgreSQL first
            rows = await self._turns.lingering()
            await self._put_back([row for row in rows if row.turn.turn_id in missing], epoch)

    async def _put_back(self, rows: list[Row], epoch: int) -> None:
        missing = await self._working_state.missing([row.turn.turn_id for row in rows])
        for row in rows:
            if row.turn.turn_id not in missing or (turn := as_unfinished(row)) is None:
                continue
            if await self._working_state.restore(turn, epoch=epoch):
                log.warning("a turn was put back", turn_id=row.turn.turn_id, state=row.turn.state)

    async def _fail(self, row: Row, epoch: int, error: dict[str, str]) -> None:
        if await self._turns.fail_queued(row.turn.turn_id, error, time.time_ns() // 1_000_000):
            self._figures.ended(row.turn.bundle_id, TurnState.FAILED)
            turn = await self._turns.get(row.turn.turn_id)
            if turn is not None and row.envelope is not None:
                await self._queue.finish(row.envelope, None, epoch=epoch, state=TurnState.FAILED, line=line_of(turn))

    async def _rows(self) -> AsyncGenerator[Row]:
        async for page in self._pages():
            for row in page:
                yield row

    async def _pages(self) -> AsyncGenerator[list[Row]]:
        after = -1
        while True:
            page = await self._turns.unfinished(after, _PAGE)
            yield page
            if len(page) < _PAGE:
                return
            after = page[-1].turn.admitted_order


def as_unfinished(row: Row) -> Unfinished | None:
    """None for a turn whose envelope this release cannot read: it waits for one that can, or for its limit."""
    turn = row.turn
    if row.envelope is None:
        log.error("an envelope cannot be read", turn_id=turn.turn_id)
        return None
    return Unfinished(
        row.envelope,
        turn.admitted_order,
        turn.accepted_ms,
        turn.state,
        claim_id=turn.claim_id or "",
        worker_id=turn.worker_id or "",
        steers=turn.steer_of or "",
        cancelled=turn.cancel_requested,
    )
