"""One picture of many processes."""

from __future__ import annotations

from kdcube.gateway.monitoring import counts, fresh, gauge_sum, instances, latencies
from kdcube.gateway.traffic import Traffic
from kdcube.protocol.turns import UserType
from kdcube.redis.sources import SourceReport
from kdcube.telemetry.instruments import Instruments


def source(name: str, instruments: Instruments, *, age_s: float = 1.0, **members: object) -> SourceReport:
    about = {"config_checksum": "c"}
    report = {**instruments.report(), "component": "ingress", "source": name, "about": about, **members}
    return SourceReport(name, age_s, report)


def serving(*seconds: float) -> Instruments:
    instruments = Instruments()
    instruments.gauge("streams_open", lambda: len(seconds))
    traffic = Traffic(instruments)
    for one in seconds:
        traffic.answered("GET", "/profile", 200, one)
    traffic.refused("backpressure", 503, UserType.ANONYMOUS)
    return instruments


def test_live_processes_are_added_up() -> None:
    reports = fresh([source("a", serving(0.01, 0.01)), source("b", serving(5.0))])
    assert gauge_sum(reports, "streams_open") == 3
    (entry,) = latencies(reports, "http_request_seconds")["1m"]
    assert (entry["method"], entry["route"], entry["status"], entry["count"]) == ("GET", "/profile", "2xx", 3)
    assert entry["p50_ms"] < 13
    assert 4_000 < entry["p99_ms"] < 6_000
    assert counts(reports, "requests_refused")["15m"] == [
        {"reason": "backpressure", "status": "503", "user_type": "anonymous", "count": 2}
    ]


def test_what_is_stale_is_shown_and_not_added() -> None:
    listed = [
        source("a", serving(0.01)),
        source("b", serving(0.01), age_s=16),
        SourceReport("c", 90, None),
        source("d", serving(0.01), schema=99),
    ]
    assert gauge_sum(fresh(listed), "streams_open") == 1
    told = instances(listed)
    assert [one["state"] for one in told] == ["live", "stale", "stale", "other_release"]
    assert told[0]["gauges"]["streams_open"] == 1
    assert all("gauges" not in one for one in told[1:])


def test_unknown_routes_and_methods_do_not_make_labels() -> None:
    instruments = Instruments()
    traffic = Traffic(instruments)
    for method in ("BREW", "COOK"):
        traffic.answered(method, "", 404, 0.001)
    labels = [histogram["labels"] for histogram in instruments.report()["histograms"]]
    assert labels == [{"method": "other", "route": "none", "status": "4xx"}]
