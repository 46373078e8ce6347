"""Exports: what goes out under which name, when, and what is said when it does not."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from structlog.testing import capture_logs
from tests.unit.metrics.pictures import AT_MS, facts, picture, stale

from kdcube.config.exporting import Renamed
from kdcube.config.signals import SIGNALS, Unit
from kdcube.metrics.exporting import Export, Exporter, ExportLate, export_of, shown
from kdcube.metrics.sending import ExportFailed, Resending
from kdcube.telemetry.instruments import Instruments

pytestmark = pytest.mark.anyio
DIMENSIONS = (("tenant", "acme"),)
FULL_PICTURE = picture(queue=facts())
BLIND = picture((stale("ingress"), stale("proc")))


class Fake:
    """A target that gives the outcomes in ``fails`` first."""

    name = "fake"

    def __init__(self, *fails: Exception | None) -> None:
        self.fails = deque(fails)
        self.sent: list[Export] = []

    async def send(self, export: Export) -> None:
        if self.fails and (error := self.fails.popleft()) is not None:
            raise error
        self.sent.append(export)


class Clock:
    """Time that passes only by being slept through, ``nights`` times."""

    def __init__(self, nights: int = 0) -> None:
        self.now = 0.0
        self.nights = nights
        self.slept: list[float] = []
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if self.nights == 0:
            self.over.set()
            await asyncio.Event().wait()
        self.nights -= 1
        self.slept.append(seconds)
        self.now += seconds


class Scene:
    def __init__(self, *targets: Fake, clock: Clock | None = None, on_start: bool = True) -> None:
        self.clock = clock or Clock()
        self.instruments = Instruments()
        self.picture = FULL_PICTURE
        self.exporter = Exporter(
            targets,
            lambda: self.picture,
            {},
            self.instruments,
            every_s=30,
            on_start=on_start,
            monotonic=lambda: self.clock.now,
            sleep=self.clock.sleep,
        )

    def counted(self) -> dict[str, int]:
        return {entry["labels"]["outcome"]: entry["total"] for entry in self.instruments.report()["counters"]}


def test_names_and_units_are_those_of_the_mapping():
    mapping = {
        "ingress.sse.total_connections": Renamed("Ingress/SSEConnections", Unit.COUNT),
        "ingress.sse.saturation": Renamed(None, Unit.PERCENT),
        "ingress.throttle.rate_limit_429": Renamed("Limited", None),
        "proc.capacity.utilization": Renamed("Busy", None),
    }
    export = export_of(FULL_PICTURE, mapping)
    assert export.at_ms == AT_MS
    told = {datum.key: (datum.name, datum.value, datum.unit) for datum in export.data}
    assert told["ingress.sse.total_connections"] == ("Ingress/SSEConnections", 300, "Count")
    assert told["ingress.sse.saturation"] == ("chat/ingress/sse/saturation", 37.5, "Percent")
    assert told["ingress.throttle.rate_limit_429"] == ("Limited", 7, "Count")
    assert told["proc.capacity.utilization"] == ("Busy", 0.625, "None")
    assert told["proc.queue.total"] == ("chat/proc/queue/total", 20, "Count")


def test_what_nobody_asks_for_is_not_exported():
    assert {datum.key for datum in export_of(FULL_PICTURE, {}).data} == {
        name.key for name in SIGNALS.values() if not name.asked
    }


def test_the_names_in_cloudwatch_are_stable():
    assert [name.name for name in SIGNALS.values() if not name.asked] == [
        "chat/ingress/sse/connections",
        "chat/ingress/sse/saturation",
        "chat/ingress/rest/latency/p95",
        "chat/ingress/throttle/rate_limit_429",
        "chat/ingress/throttle/backpressure_503",
        "chat/proc/queue/total",
        "chat/proc/queue/utilization",
        "chat/proc/queue/wait/p95",
        "chat/proc/exec/p95",
        "chat/proc/queue/backlog_per_slot",
        "chat/proc/slots/utilization",
    ]


def test_what_would_be_exported_is_shown_with_what_is_missing():
    page = shown(picture((stale("ingress"),), facts()), {}, DIMENSIONS)
    told = {metric["source"]: (metric["value"], metric["stale"]) for metric in page["metrics"]}
    assert told["ingress.sse.total_connections"] == (None, True)
    assert told["proc.queue.total"] == (20, False)
    assert told["proc.queue.utilization"] == (None, False)
    assert page["metrics"][0] == {
        "source": "ingress.sse.total_connections",
        "name": "chat/ingress/sse/connections",
        "value": None,
        "unit": "Count",
        "dimensions": {"tenant": "acme"},
        "stale": True,
    }


async def test_it_exports_at_each_interval():
    target, clock = Fake(), Clock(nights=4)
    scene = Scene(target, clock=clock)
    async with asyncio.timeout(10), scene.exporter.exporting():
        await clock.over.wait()
    assert clock.slept == [0, 30, 30, 30] and len(target.sent) == 4
    clock.now += 7
    gauges = {entry["name"]: entry["value"] for entry in scene.instruments.report()["gauges"]}
    assert gauges == {"export_age_seconds": 7, "export_interval_seconds": 30}


async def test_it_waits_an_interval_where_it_is_not_to_export_at_the_start():
    target, clock = Fake(), Clock(nights=1)
    async with asyncio.timeout(10), Scene(target, clock=clock, on_start=False).exporter.exporting():
        await clock.over.wait()
    assert clock.slept == [30] and len(target.sent) == 1


async def test_nothing_is_exported_of_what_is_stale_and_it_is_said():
    target = Fake()
    scene = Scene(target)
    scene.picture = BLIND
    with capture_logs() as logs:
        assert await scene.exporter.export() == ("nothing is known: all sources are stale",)
        await scene.exporter.export()
        scene.picture = FULL_PICTURE
        assert await scene.exporter.export() == ()
    assert [len(export.data) for export in target.sent] == [0, 0, 11]
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("export.failed", "error"),
        ("export.resumed", "info"),
    ]
    assert scene.counted() == {"nothing": 2, "sent": 1}


async def test_a_target_that_fails_keeps_no_other_from_its_export_and_is_told():
    bad, good = Fake(ExportFailed("no", again=False), ValueError("a bug")), Fake()
    bad.name = "bad"
    scene = Scene(bad, good)
    with capture_logs() as logs:
        assert await scene.exporter.export() == ("no",)
        assert await scene.exporter.export() == ("the export to bad broke",)
    assert len(good.sent) == 2
    assert [line["event"] for line in logs] == ["export.failed", "export.broke", "export.failed"]
    scene.clock.now = 90
    await scene.exporter.check()
    scene.clock.now = 91
    with pytest.raises(ExportLate, match="to bad for 91 s, to fake for 91 s"):
        await scene.exporter.check()
    await scene.exporter.export()
    await scene.exporter.check()


async def test_pauses_have_full_jitter_and_a_bound():
    clock, chances = Clock(nights=99), iter((0.0, 1.0, 0.5, 1.0, 1.0))
    resending = Resending(attempts=6, sleep=clock.sleep, chance=lambda: next(chances))
    target = Fake(*[ExportFailed("busy", again=True)] * 6)
    with pytest.raises(ExportFailed, match="busy"):
        await resending.send(lambda: target.send(Export(0, ())))
    assert clock.slept == [0, 1, 1, 4, 8] and not target.fails


async def test_what_is_refused_is_not_sent_again():
    clock, target = Clock(), Fake(ExportFailed("no", again=False))
    with pytest.raises(ExportFailed, match="no"):
        await Resending(sleep=clock.sleep).send(lambda: target.send(Export(0, ())))
    assert not target.sent
