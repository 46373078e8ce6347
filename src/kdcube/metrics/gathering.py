"""From what stands in Valkey to a picture, again and again. Only reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.sections import COMPONENTS
from kdcube.gateway.monitoring import STALE_S, SourceState, state_of
from kdcube.metrics.picture import QUEUE, Component, Instance, Level, Picture
from kdcube.metrics.totals import Totals
from kdcube.protocol.errors import KDCubeError, StoreUnavailable
from kdcube.redis.connection import Connection
from kdcube.redis.keys import Keys
from kdcube.redis.queue_facts import QueueFacts, read_queue_facts
from kdcube.redis.sources import SourceReport, Sources
from kdcube.telemetry.instruments import Key

EVERY_S = 5.0
"""As often as processes report."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Gathering:
    """Keeps ``picture`` up to date while ``running``. Every installation has ingress and proc: they are stale until
    they are seen. Whatever else was seen once stays, until this service is started again.
    """

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        every_s: float = EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._sources = Sources(connection, keys)
        self._every_s = every_s
        self._monotonic = monotonic
        self._wall = wall
        self._totals = {name: Totals(monotonic()) for name in COMPONENTS}
        self._component_of: dict[str, str] = {}
        self._gathered_s = monotonic()
        self._stale: dict[str, bool] = {}
        self._picture = self._blind("nothing was read yet")

    @property
    def picture(self) -> Picture:
        """The latest one; one that has not been followed by another in time is stale as a whole."""
        silent_s = self._monotonic() - self._gathered_s
        if silent_s > STALE_S and self._picture.blind is None:
            return self._blind(f"nothing was read for {silent_s:.0f} s")
        return self._picture

    def check(self) -> None:
        """Raises StoreUnavailable while nothing can be read."""
        if (reason := self.picture.blind) is not None:
            raise StoreUnavailable("Valkey", reason)

    async def gather(self) -> Picture:
        """Reads once. A picture that is blind says why; nothing else is raised."""
        try:
            sources = await self._sources.read()
            queue = await self._queue()
        except KDCubeError as error:
            self._picture = self._blind(str(error))
        else:
            self._picture = self._pictured(sources, queue)
        self._gathered_s = self._monotonic()
        self._tell_changes()
        return self._picture

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Gathering]:
        """Has gathered once at entry, and goes on until left."""
        await self.gather()
        task = asyncio.create_task(self._gather_for_ever(), name="gathering")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _gather_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.gather()
            except Exception:
                logger.exception("metrics.gathering_failed")

    async def _queue(self) -> QueueFacts | None:
        """None without a published epoch: what stands there is being built, or is a mere rest."""
        before, facts, after = (
            await self._connection.call("GET", self._keys.epoch),
            await read_queue_facts(self._connection, self._keys),
            await self._connection.call("GET", self._keys.epoch),
        )
        return facts if before is not None and before == after else None

    def _pictured(self, sources: Iterable[SourceReport], queue: QueueFacts | None) -> Picture:
        now_s = self._monotonic()
        instances: dict[str, list[Instance]] = {}
        reports: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in self._totals}
        for source in sources:
            instance = self._instance(source)
            instances.setdefault(instance.component or _UNKNOWN, []).append(instance)
            if source.report is not None and instance.component is not None:
                self._totals.setdefault(instance.component, Totals(now_s))
                reports.setdefault(instance.component, {})[source.source] = source.report
        components: dict[str, Component] = {}
        for name, totals in self._totals.items():
            totals.hear(reports[name], now_s)
            components[name] = _component(name, instances.get(name, ()), totals)
        listed = {instance.name for several in instances.values() for instance in several}
        self._component_of = {name: of for name, of in self._component_of.items() if name in listed}
        return Picture(int(self._wall() * 1000), components, queue, tuple(instances.get(_UNKNOWN, ())))

    def _instance(self, source: SourceReport) -> Instance:
        """Of an expired report nothing is known but whose it was."""
        report, state = source.report, state_of(source)
        if report is None or state is SourceState.OTHER_RELEASE:
            component = None if report else self._component_of.get(source.source)
            return Instance(source.source, component, state, source.age_s)
        self._component_of[source.source] = component = report["component"]
        gauges = _gauges(report["gauges"]) if state is SourceState.LIVE else {}
        return Instance(source.source, component, state, source.age_s, report["started_ms"], report["about"], gauges)

    def _blind(self, reason: str) -> Picture:
        components = {name: Component(name, stale=True) for name in self._totals}
        return Picture(int(self._wall() * 1000), components, None, blind=reason)

    def _tell_changes(self) -> None:
        """Each loss of sight is told once, as is its end."""
        for name, stale in self._picture.stale().items():
            was = self._stale.get(name)
            if stale and was is not True:
                logger.warning("metrics.stale", component=name, reason=self._picture.blind or _WHY.get(name, _SILENT))
            elif was is True and not stale:
                logger.info("metrics.fresh", component=name)
            self._stale[name] = stale


_UNKNOWN = ""
_SILENT = "no process of it has reported lately"
_WHY = {QUEUE: "Valkey has no working state that is complete"}


def _component(name: str, instances: Iterable[Instance], totals: Totals) -> Component:
    listed = tuple(instances)
    if not any(instance.state is SourceState.LIVE for instance in listed):
        return Component(name, stale=True, instances=listed)
    return Component(
        name,
        stale=False,
        instances=listed,
        gauges=_levels(instance.gauges for instance in listed),
        counters=totals.counters(),
        histograms=totals.histograms(),
    )


def _gauges(entries: Iterable[Mapping[str, Any]]) -> dict[Key, float]:
    return {(entry["name"], tuple(sorted(entry["labels"].items()))): entry["value"] for entry in entries}


def _levels(told: Iterable[Mapping[Key, float]]) -> dict[Key, Level]:
    levels: dict[Key, Level] = {}
    for gauges in told:
        for key, value in gauges.items():
            before = levels.get(key)
            levels[key] = (
                Level(value, value) if before is None else Level(before.total + value, max(before.greatest, value))
            )
    return levels
