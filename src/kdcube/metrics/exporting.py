"""Exports signals again and again to wherever they are wanted, and says so loudly when it cannot.

Only what is known is exported. A signal that is absent is left out: an autoscaler sees missing data, not a zero.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from kdcube.config.exporting import Pairs, Renamed
from kdcube.config.signals import PER_UNIT, SignalName, Unit
from kdcube.metrics.picture import Picture
from kdcube.metrics.sending import ExportFailed
from kdcube.metrics.signals import Absent, Signal, signals
from kdcube.protocol.errors import KDCubeError
from kdcube.telemetry.instruments import Instruments

LATE_AFTER = 3
"""Intervals without an export until it is *late*."""
REASONS_MAX = 10
"""That are said from one export to the next."""

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Datum:
    """One signal as it goes out."""

    key: str
    name: str
    unit: Unit
    value: float | None
    """None: absent. In an Export there is none of these."""
    renamed: bool
    """The mapping gave the name."""
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """What is known at one moment."""

    at_ms: int
    data: tuple[Datum, ...]


class Target(Protocol):
    """Somewhere to export to."""

    @property
    def name(self) -> str: ...

    async def send(self, export: Export) -> None:
        """Sends all of it, again where that helps. Without data it withdraws what it sent before, if it can.

        Raises ExportFailed.
        """
        ...


class ExportLate(KDCubeError):
    """Nothing was exported for a while."""


def outgoing(picture: Picture, mapping: Mapping[str, Renamed]) -> list[Datum]:
    """All signals that are exported by this mapping, absent ones included."""
    return [
        _datum(signal, mapping.get(signal.name.key))
        for signal in signals(picture)
        if signal.name.key in mapping or not signal.name.asked
    ]


def export_of(picture: Picture, mapping: Mapping[str, Renamed]) -> Export:
    """What goes out now."""
    return Export(picture.at_ms, tuple(datum for datum in outgoing(picture, mapping) if datum.value is not None))


def shown(picture: Picture, mapping: Mapping[str, Renamed], dimensions: Pairs) -> dict[str, Any]:
    """As ``GET /metrics/export`` shows what would be exported."""
    return {
        "at_ms": picture.at_ms,
        "metrics": [
            {
                "source": datum.key,
                "name": datum.name,
                "value": datum.value,
                "unit": str(datum.unit),
                "dimensions": dict(dimensions),
                "stale": datum.stale,
            }
            for datum in outgoing(picture, mapping)
        ],
    }


def _datum(signal: Signal | Absent, renamed: Renamed | None) -> Datum:
    name: SignalName = signal.name
    unit = (renamed.unit if renamed else None) or name.unit
    value = signal.value * PER_UNIT[name.unit][unit] if isinstance(signal, Signal) else None
    if value is not None and not math.isfinite(value):
        logger.error("export.not_finite", signal=name.key)
        value = None
    given = renamed.name if renamed else None
    return Datum(
        key=name.key,
        name=given or name.name,
        unit=unit,
        value=value,
        renamed=given is not None,
        stale=isinstance(signal, Absent) and signal.stale,
    )


@dataclass(slots=True)
class _Standing:
    """How it goes with one target."""

    since: float
    """When something was last taken there, or when this process began."""
    said: set[str] = field(default_factory=set[str])
    """Why not since then, as the log has it already."""


class Exporter:
    """``picture`` gives the latest. Its gauges and counters go into ``instruments``."""

    def __init__(
        self,
        targets: Sequence[Target],
        picture: Callable[[], Picture],
        mapping: Mapping[str, Renamed],
        instruments: Instruments,
        *,
        every_s: float,
        on_start: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._targets = targets
        self._picture = picture
        self._mapping = mapping
        self._instruments = instruments
        self._every_s = every_s
        self._on_start = on_start
        self._monotonic = monotonic
        self._sleep = sleep
        self._standing = {target.name: _Standing(monotonic()) for target in targets}

    async def export(self) -> tuple[str, ...]:
        """To all targets at once. Why not, where something was not taken, or nothing is known; none of it is raised."""
        export = export_of(self._picture(), self._mapping)
        failures = await asyncio.gather(*(self._export_to(target, export) for target in self._targets))
        return tuple(failure for failure in failures if failure is not None)

    @asynccontextmanager
    async def exporting(self) -> AsyncGenerator[None]:
        """At each interval, until left. An export that takes longer than that delays the next; none is made up for."""
        if not self._targets:
            yield
            return
        for name, standing in self._standing.items():
            gauge = self._instruments.gauge
            gauge("export_age_seconds", lambda of=standing: self._monotonic() - of.since, target=name)
            gauge("export_interval_seconds", lambda: self._every_s, target=name)
        task = asyncio.create_task(self._export_for_ever(), name="exporting")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def check(self) -> None:
        """Raises ExportLate."""
        ages = {name: self._monotonic() - standing.since for name, standing in self._standing.items()}
        late = [f"{name} for {age_s:.0f} s" for name, age_s in ages.items() if age_s > LATE_AFTER * self._every_s]
        if late:
            raise ExportLate(f"nothing was exported to {', to '.join(late)}: the log says why")

    async def _export_for_ever(self) -> None:
        due = self._monotonic() + (0.0 if self._on_start else self._every_s)
        while True:
            await self._sleep(max(0.0, due - self._monotonic()))
            due = max(due + self._every_s, self._monotonic())
            try:
                await self.export()
            except Exception:  # a bug: the next picture may be another, and meanwhile the age of the last export tells
                logger.exception("export.broke")

    async def _export_to(self, target: Target, export: Export) -> str | None:
        standing = self._standing[target.name]
        try:
            async with asyncio.timeout(self._every_s):
                await target.send(export)
        except ExportFailed as error:
            return self._failed(target, str(error))
        except TimeoutError:
            return self._failed(target, f"{target.name} does not take it within {self._every_s:g} s")
        except Exception:  # the other targets go on
            logger.exception("export.broke", target=target.name)
            return self._failed(target, f"the export to {target.name} broke")
        if not export.data:
            return self._failed(target, "nothing is known: all sources are stale", outcome="nothing")
        self._count(target, "sent")
        if standing.said:
            logger.info("export.resumed", target=target.name, after_s=round(self._monotonic() - standing.since, 1))
        standing.said.clear()
        standing.since = self._monotonic()
        return None

    def _failed(self, target: Target, reason: str, *, outcome: str = "failed") -> str:
        """Said once for each reason, not at each interval."""
        self._count(target, outcome)
        said = self._standing[target.name].said
        if reason not in said and len(said) < REASONS_MAX:
            logger.error("export.failed", target=target.name, reason=reason)
            said.add(reason)
        return reason

    def _count(self, target: Target, outcome: str) -> None:
        self._instruments.counter("exports", target=target.name, outcome=outcome).add()
