"""Reports as Prometheus reads them."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kdcube.telemetry.catalogue import CATALOGUE, SECTIONS, Kind, Metric, catalogue
from kdcube.telemetry.exposition import exposed
from kdcube.telemetry.instruments import BOUNDS, Instruments

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def report(component: str = "proc") -> dict[str, Any]:
    instruments = Instruments(wall=lambda: 1.0)
    instruments.counter("claims", user_type="paid").add(3)
    instruments.gauge("slots", lambda: 8)
    for seconds in (0.0005, 0.003, 2000.0):
        instruments.histogram("turn_wait_seconds", user_type="paid").observe(seconds)
    return {**instruments.totals(), "component": component}


def samples(text: str, *, openmetrics: bool = False) -> dict[tuple[str, str, str], float]:
    """By name, component and bound."""
    families = (parse_openmetrics if openmetrics else parse_text)(text)
    return {
        (sample.name, sample.labels["component"], sample.labels.get("le", "")): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_both_formats_say_what_was_counted(accept: str) -> None:
    told = exposed([report()], accept)
    assert told.content_type.startswith(accept.partition(";")[0] or "text/plain")
    found = samples(told.body.decode(), openmetrics=bool(accept))
    assert found["kdcube_claims_total", "proc", ""] == 3
    assert found["kdcube_slots", "proc", ""] == 8
    bounds = {bound: value for (name, _, bound), value in found.items() if name == "kdcube_turn_wait_seconds_bucket"}
    assert len(bounds) == len(BOUNDS) // 4 + 2
    assert [bounds[at] for at in ("0.0005", "0.002", "0.004", "+Inf")] == [1, 1, 2, 3]
    assert found["kdcube_turn_wait_seconds_count", "proc", ""] == 3
    assert found["kdcube_turn_wait_seconds_sum", "proc", ""] == pytest.approx(2000.0035)


def test_each_component_has_its_samples() -> None:
    found = samples(exposed([report("proc"), report("ingress")]).body.decode())
    assert {component for _, component, _ in found} == {"proc", "ingress"}


def test_what_another_release_counts_is_left_out() -> None:
    odd = {"name": "slots", "labels": {"colour": "red"}, "value": 1}
    unknown = {"name": "of_tomorrow", "labels": {}, "value": 1}
    assert exposed([{"component": "proc", "gauges": [odd, unknown]}]).body == b""


def test_all_that_can_be_counted_can_be_shown() -> None:
    """Prometheus' own parser takes every name, label and unit of the catalogue."""
    instruments = Instruments()
    for metric in CATALOGUE.values():
        labels = dict.fromkeys(metric.labels, 'a "b" \\ c\n')
        match metric.kind:
            case Kind.COUNTER:
                instruments.counter(metric.name, **labels).add()
            case Kind.GAUGE:
                instruments.gauge(metric.name, lambda: 1.0, **labels)
            case Kind.HISTOGRAM:
                instruments.histogram(metric.name, **labels).observe(1.0)
    text = exposed([{**instruments.totals(), "component": "proc"}], OPENMETRICS).body.decode()
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families.keys() == {"kdcube_" + name for name in CATALOGUE}
    assert all(families["kdcube_" + name].unit == metric.unit for name, metric in CATALOGUE.items())
    assert sum(map(len, SECTIONS.values())) == len(CATALOGUE)


@pytest.mark.parametrize(
    "metrics",
    [
        (Metric("a", Kind.GAUGE, ""), Metric("a", Kind.COUNTER, "")),
        (Metric("a", Kind.HISTOGRAM, "", (), "seconds"),),
        (Metric("a_total", Kind.COUNTER, ""),),
    ],
)
def test_names_follow_the_conventions(metrics: tuple[Metric, ...]) -> None:
    with pytest.raises(ValueError, match=r"twice|unit|Prometheus"):
        catalogue(*metrics)
