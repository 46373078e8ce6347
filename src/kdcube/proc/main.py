"""The composition root of proc: settings, stores, bundle hosts, worker, maintenance, and an address for probes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from starlette.types import ASGIApp

from kdcube import __version__
from kdcube.config.bundles import BundleEntry, BundleRegistry
from kdcube.config.gateway import GatewayConfig
from kdcube.config.proc import ProcSettings
from kdcube.config.sections import QUEUE_SIZE_MAX
from kdcube.gateway.bundles.activity import Active, activity
from kdcube.gateway.bundles.adopting import adopt_bundles
from kdcube.gateway.bundles.following import follow_bundles
from kdcube.gateway.bundles.live import LiveBundles, Registered
from kdcube.gateway.foundation import open_foundation
from kdcube.gateway.internal import internal_port
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.reporting import Reporting
from kdcube.gateway.serving import ServerBeside, collect_rarely, http_config, listening, run_service
from kdcube.gateway.traffic import Traffic
from kdcube.postgres.audit import Actor
from kdcube.postgres.database import Database
from kdcube.postgres.epochs import Epochs
from kdcube.postgres.erasing import Erasing
from kdcube.postgres.locks import Leadership
from kdcube.postgres.releases import Releases
from kdcube.postgres.turns import Turns
from kdcube.proc.bundles.environments.environments import open_environments
from kdcube.proc.bundles.figures import HostFigures
from kdcube.proc.bundles.host import HostLimits
from kdcube.proc.bundles.jobs import BundleUnavailable
from kdcube.proc.bundles.pool import HostPool, open_host_pool
from kdcube.proc.bundles.release import BundleRelease
from kdcube.proc.bundles.sources.credentials import open_git_credentials
from kdcube.proc.bundles.sources.git_source import open_git_store
from kdcube.proc.bundles.watching import reload_on_change
from kdcube.proc.desk import BundleGrant, Desk
from kdcube.proc.eraser import Eraser
from kdcube.proc.leader import Leader
from kdcube.proc.lease import LeaseKeeper
from kdcube.proc.polling import Polling
from kdcube.proc.preparing import Preparing
from kdcube.proc.protection import EcsProtection, NoProtection
from kdcube.proc.reaper import Reaper
from kdcube.proc.reconciler import Reconciler
from kdcube.proc.rest.app import Probes, create_app
from kdcube.proc.rest.opening import open_operations
from kdcube.proc.rest.operations import OperationRoutes
from kdcube.proc.turn_figures import TurnFigures
from kdcube.proc.worker import Worker
from kdcube.protocol.errors import KDCubeError
from kdcube.redis.connection import open_blocking_connection
from kdcube.redis.epoch import EpochWatch, WorkingState
from kdcube.redis.eventlog import EventLogs
from kdcube.redis.queue import LEASE_S, Queue
from kdcube.redis.remains import Remains
from kdcube.redis.renewal import Renewal
from kdcube.redis.sources import Sources
from kdcube.redis.steer import Steers
from kdcube.redis.workers import Workers
from kdcube.secrets.opening import open_secrets
from kdcube.secrets.secrets import Secrets

log = structlog.get_logger(__name__)

_LOOP_SIGN_S = 1.0
GC_AFTER_OBJECTS = 20_000
"""Turns leave few cycles behind; with the usual 700 the collector takes 4 to 7 % of proc's time."""


class Proc:
    """One proc: opened and closed by ``opened``, drained by ``drain``."""

    def __init__(self, settings: ProcSettings, *, lease_s: float = LEASE_S) -> None:
        self.settings = settings
        self._lease_s = lease_s
        self._available = sorted(settings.service.bundles.bundles)
        """Bundles whose turns could run here; what loads at start is found out then."""
        self.live: LiveGateway
        self.bundles: LiveBundles
        self.preparing: Preparing
        self.polling: Polling
        self.secrets: Secrets
        self.worker: Worker
        self.pool: HostPool
        self.database: Database
        self.probes: Probes
        self.operations: OperationRoutes
        self.app: ASGIApp

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Proc]:
        """Everything, ready to claim. Raises ConfigurationError, StoreUnavailable, BundleLoadError."""
        settings, service = self.settings, self.settings.service
        worker_id = service.instance_id
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            foundation = await enter(open_foundation(service))
            self.live = live = foundation.live
            self.database, connection, subscriber = foundation.database, foundation.connection, foundation.subscriber
            keys, scope = foundation.keys, foundation.scope
            doorbell = await enter(open_blocking_connection(service.redis_url, name=f"{worker_id}-doorbell"))
            turns = await enter(Turns(self.database, *scope))
            releases = Releases(self.database, foundation.audit, *scope)
            self.bundles = await adopt_bundles(service, releases)
            following = await enter(follow_bundles(self.bundles, releases, connection, subscriber, keys).following())
            await following.publish(self.bundles.current.sequence)
            queue = Queue(connection, keys, lease_s=self._lease_s)
            logs = EventLogs(connection, keys)
            working_state = WorkingState(connection, keys, lease_s=queue.lease_s)
            await working_state.check_format()
            workers = Workers(connection, keys)

            instruments = foundation.instruments
            self.secrets = await enter(open_secrets(settings.secrets))
            credentials = stack.enter_context(
                open_git_credentials(self.secrets, service.home / "run" / f"{worker_id}-keys")
            )
            git = stack.enter_context(open_git_store(service.home / "git", settings.git, credentials))
            environments = stack.enter_context(open_environments(service.home / "environments", settings.environments))
            folders = _folders(service.bundles, self.bundles.current)
            needed = [entry.id for entry in folders if await environments.ready(entry)]
            self.pool = await enter(
                open_host_pool(
                    *_to_run(self.bundles.current),
                    slots=self._slots(),
                    run_dir=service.home / "run" / worker_id,
                    limits=_DEBUGGED if settings.debug_bundles else None,
                    on_change=self._room_changed,
                    figures=HostFigures(instruments),
                    git=git,
                    environments=environments,
                    needed=needed,
                    bounded=_patient if settings.debug_bundles else _limited(settings.turn_limit_s),
                )
            )
            self.bundles.subscribe(lambda registered: self.pool.apply(*_to_run(registered)))
            self.preparing = Preparing(releases, self.pool, following)
            self.bundles.subscribe(lambda _: self.preparing.hurry())
            self.polling = Polling(self.bundles, releases, git, Actor(f"system:{worker_id}"))
            leadership = await enter(Leadership(service.database_url, *scope, "maintenance"))
            figures = TurnFigures(instruments)
            reaper = Reaper(turns=turns, queue=queue, logs=logs, max_attempts=self._max_attempts, figures=figures)
            reconciler = Reconciler(
                turns=turns,
                epochs=Epochs(self.database, *scope),
                queue=queue,
                working_state=working_state,
                workers=workers,
                queue_limit_s=live.current.limits.proc.max_queue_wait_seconds,
                registered=lambda: self.bundles.current.known,
                figures=figures,
            )

            eraser = Eraser(
                erasing=Erasing(self.database, *scope), turns=turns, queue=queue, remains=Remains(connection, keys)
            )

            def enforce(config: GatewayConfig) -> None:
                limits = config.limits.proc
                queue.running_per_user = working_state.running_per_user = limits.max_running_turns_per_user
                reconciler.queue_limit_s = limits.max_queue_wait_seconds
                eraser.retention_days = limits.retention_days

            live.subscribe(enforce)
            leader = Leader(
                leadership,
                connection=connection,
                workers=workers,
                reaper=reaper,
                reconciler=reconciler,
                eraser=eraser,
                duties={"preparing releases": self.preparing.run, "polling repositories": self.polling.run},
            )
            leading = await enter(_owned(leader.run(), "maintenance"))
            epoch_watch = await enter(EpochWatch(connection, subscriber, keys).watching())

            renewal = Renewal(
                service.redis_url,
                keys,
                worker_id=worker_id,
                lease_s=queue.lease_s,
                heartbeat_ttl_s=15.0,
                epoch=epoch_watch.known,
                describe=self._describe,
            )
            leases = LeaseKeeper(
                renewal,
                lease_s=queue.lease_s,
                beat_every_s=settings.heartbeat_interval_s,
                on_lost=_in_loop(lambda turn, claim: self.worker.lost(turn, claim)),
                on_alive=self.pool.pulse.beat,
                on_cancelled=_in_loop(lambda turn, claim: self.worker.cancelled(turn, claim)),
            )
            desk = Desk(
                worker_id=worker_id,
                turns=turns,
                queue=queue,
                logs=logs,
                steers=Steers(connection, keys),
                epoch_watch=epoch_watch,
                pool=self.pool,
                grants=self._grant,
                figures=figures,
                tracing=foundation.tracing,
            )
            self.worker = Worker(
                desk,
                keys=keys,
                slots=self._slots(),
                revision=service.revision,
                doorbell=doorbell,
                subscriber=subscriber,
                ring=workers.ring,
                leases=leases,
                protection=self._protection(),
            )
            live.subscribe(lambda _: self._resize())
            instruments.gauge("slots", lambda: 0 if self.worker.draining else self.worker.slots)
            instruments.gauge("turns_running", lambda: self.worker.running)
            instruments.gauge("draining", lambda: int(self.worker.draining))
            instruments.gauge("leading", lambda: int(leader.leads))
            instruments.gauge("queue_cap", lambda: _cap(live.current))
            await enter(
                Reporting(Sources(connection, keys), instruments, live, service, "proc", about=self._about).reporting()
            )
            await enter(internal_port(service, instruments))
            self.probes = Probes(
                settings=settings,
                live=live,
                database=self.database,
                connection=connection,
                epoch_watch=epoch_watch,
                pool=self.pool,
                preparing=self.preparing,
                worker=self.worker,
                secrets=self.secrets,
                tasks=[leading, self.pool.keeping],
            )
            leases.start()
            connection.on_connect.append(leases.hurry)
            stack.callback(leases.stop)
            self.probes.tasks.append(await enter(_owned(_sign_of_life(leases), "sign of life")))
            self.probes.tasks.append(await enter(self.worker.working()))
            if settings.watch_bundles:
                watching = reload_on_change(self.pool)
                self.probes.tasks.append(await enter(_owned(watching, "watching bundles")))
            self.operations = await enter(
                open_operations(
                    settings.callers,
                    foundation,
                    pool=self.pool,
                    bundles=self.bundles,
                    grants=self._grant,
                    turns=turns,
                    epochs=epoch_watch,
                )
            )
            self.app = create_app(
                self.probes, self.operations, settings.callers.cors, Traffic(instruments), foundation.tracing
            )
            collect_rarely(GC_AFTER_OBJECTS)
            log.info("proc.ready", slots=self.worker.slots, bundles=sorted(self.bundles.current.releases))
            yield self
            await workers.leave(worker_id)

    async def drain(self) -> None:
        """Takes no more, lets turns and operations finish within the limit, interrupts the rest."""
        limit_s = self.settings.drain_timeout_s
        await asyncio.gather(self.worker.drain(limit_s), self.operations.drain(limit_s))
        self.pool.drain()

    def _room_changed(self) -> None:
        if hasattr(self, "pool"):
            self._available = [bundle.id for bundle in self.pool.status() if bundle.unavailable is None]
        if hasattr(self, "worker"):
            self.worker.room_changed()

    def _slots(self) -> int:
        settings = self.settings
        capacity = self.live.current.service_capacity.proc
        return settings.slots if settings.slots_given else capacity.concurrent_requests_per_process

    def _resize(self) -> None:
        self.pool.slots = self.worker.slots = self._slots()
        self.worker.room_changed()

    def _about(self) -> dict[str, object]:
        active = {
            bundle.id: Active(bundle.release, bundle.version, bundle.problem)
            for bundle in self.pool.status()
            if bundle.release is not None
        }
        return {
            **self.bundles.report(),
            **activity(active),
            "bundles": self._available,
            "draining": self.worker.draining,
        }

    def _describe(self) -> tuple[int, dict[str, Any]]:
        """Runs in the keeper's thread: reads only."""
        worker, service = self.worker, self.settings.service
        slots = 0 if worker.draining else worker.slots
        return slots, {
            "instance": service.instance_id,
            "revision": service.revision,
            "version": __version__,
            **self.live.report("proc"),
            "running": worker.running,
            "slots": slots,
            "bundles": self._available,
        }

    def _max_attempts(self, bundle_id: str) -> int:
        try:
            return self.pool.max_attempts(bundle_id)
        except BundleUnavailable:
            return 1

    async def _grant(self, entry: BundleEntry) -> BundleGrant:
        return BundleGrant(dict(entry.config), await self.secrets.grant(entry))

    def _protection(self) -> EcsProtection | NoProtection:
        agent = self.settings.ecs_agent_uri
        if agent is None:
            return NoProtection()
        return EcsProtection(agent, minutes=max(1, min(2880, round(self.settings.turn_limit_s / 60) + 5)))


def _to_run(registered: Registered) -> tuple[dict[str, BundleRelease], str | None]:
    releases = {
        bundle_id: BundleRelease(served.number, served.entry, served.revision)
        for bundle_id, served in registered.releases.items()
    }
    return releases, registered.default_bundle_id


def _folders(environment: BundleRegistry, registered: Registered) -> list[BundleEntry]:
    """The folders that the environment names: whoever started this proc is told at once what is wrong with one."""
    served = {bundle_id: release.entry for bundle_id, release in registered.releases.items()}
    return [entry for entry in environment.bundles.values() if not entry.fetched and served.get(entry.id) == entry]


def _cap(config: GatewayConfig) -> int | None:
    """How many turns may wait; None without a limit."""
    most = config.limits.proc.max_queue_size
    return most if most < QUEUE_SIZE_MAX else None


_DAY_S = 86_400.0
_DEBUGGED = HostLimits(beat_timeout_s=_DAY_S, cancel_grace_s=_DAY_S, load_timeout_s=_DAY_S, debug=True)
"""For somebody who looks at a turn that stands still."""


def _patient(entry: BundleEntry) -> BundleEntry:
    """No turn or operation ends for taking long or for being silent."""
    limits: dict[str, float] = dict.fromkeys(("wall_limit_s", "idle_limit_s", "operation_timeout_s"), _DAY_S)
    return entry.model_copy(update=limits)


def _limited(turn_limit_s: float) -> Callable[[BundleEntry], BundleEntry]:
    """No bundle's turns may take longer than those of this installation."""

    def limited(entry: BundleEntry) -> BundleEntry:
        limits = {
            "wall_limit_s": min(entry.wall_limit_s, turn_limit_s),
            "idle_limit_s": min(entry.idle_limit_s, turn_limit_s),
        }
        return entry.model_copy(update=limits)

    return limited


@asynccontextmanager
async def _owned(work: Any, name: str) -> AsyncGenerator[asyncio.Task[None]]:
    """A task that ends with the context."""
    task: asyncio.Task[None] = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _in_loop(callback: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """For callbacks from the keeper's thread."""
    loop = asyncio.get_running_loop()

    def call(turn_id: str, claim_id: str) -> None:
        loop.call_soon_threadsafe(callback, turn_id, claim_id)

    return call


async def _sign_of_life(leases: LeaseKeeper) -> None:
    while True:
        leases.loop_is_alive()
        await asyncio.sleep(_LOOP_SIGN_S)


async def serve(settings: ProcSettings) -> None:
    """Runs until SIGTERM or SIGINT, then drains. A second signal does not hurry it.

    Raises KDCubeError, after the drain, when a part of proc broke: whoever started it is to start it again.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    proc, service = Proc(settings), settings.service
    with listening(service.host, service.port, "CHAT_PROCESSOR_PORT") as listener:
        async with proc.opened():
            config = http_config(proc.app, stop_timeout_s=settings.stop_timeout_s - settings.drain_timeout_s)
            async with ServerBeside(config).serving(listener):
                broken = asyncio.create_task(proc.probes.first_broken())
                await asyncio.wait({asyncio.create_task(stop.wait()), broken}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    log.critical("proc.broken", error=broken.result())
                broken.cancel()
                await proc.drain()
    if proc.probes.broken is not None:
        raise KDCubeError(proc.probes.broken)


def main() -> int:
    """``python -m kdcube.proc``."""
    return run_service("proc", ProcSettings, serve)
