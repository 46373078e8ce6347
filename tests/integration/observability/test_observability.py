"""observability/: Prometheus takes it, every alert is proven, and every metric that is named exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.prometheus import promtool

from kdcube.telemetry.catalogue import CATALOGUE, Kind
from kdcube.telemetry.exposition import COMPONENT

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "observability"
PAGE = (ROOT / "docs" / "dashboards.md").read_text()
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
TESTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((alert, rule["expr"]) for alert, rule in RULES.items()),
    *((test["name"], series["series"]) for test in TESTS for series in test["input_series"]),
]
_SUFFIXES = {Kind.COUNTER: ("",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_count", "_sum")}
SAMPLES = {
    metric.shown + suffix: {*metric.labels, COMPONENT, "job", "instance", *(["le"] if suffix == "_bucket" else [])}
    for metric in CATALOGUE.values()
    for suffix in _SUFFIXES[metric.kind]
}
"""By the name of a sample in Prometheus: the labels that it has there."""


def test_prometheus_takes_what_to_scrape_and_the_rules() -> None:
    promtool("check", "config", FOLDER / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", FOLDER / "alerts.yml")


def test_each_alert_is_silent_while_all_is_well_and_fires_when_it_is_not() -> None:
    promtool("test", "rules", FOLDER / "alerts.test.yml")
    proven = {test["name"]: [len(at.get("exp_alerts", ())) for at in test["alert_rule_test"]] for test in TESTS}
    assert proven == {alert: [0, 1] for alert in RULES}
    assert all(at["alertname"] == test["name"] for test in TESTS for at in test["alert_rule_test"])


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_queries_name_samples_and_labels_of_the_catalogue(where: str, query: str) -> None:
    named = re.findall(r"\b(kdcube_\w+)(?:\{(.*?)\})?", query)
    assert named or "up{" in query, where
    for name, selector in named:
        assert name in SAMPLES, f"{where}: the catalogue has no {name}"
        assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector)) <= SAMPLES[name], f"{where}: {query}"
        assert "job=" in selector, f"{where}: processes would be counted twice"
    labels = set().union(*(SAMPLES[name] for name, _ in named)) | {"service"}
    for grouping in re.findall(r"\bby \((.*?)\)", query):
        assert set(re.split(r",\s*", grouping)) <= labels, f"{where}: {query}"


def test_names_in_legends_and_annotations_are_labels_that_are_left() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == kept(target["expr"]) - {"le"}, panel[
                "title"
            ]
    for alert, rule in RULES.items():
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert named <= kept(rule["expr"]) | {"job", "instance", "service", COMPONENT}, alert


def test_panels_can_be_told_apart_and_stand_beside_each_other() -> None:
    ids, titles = ([panel[key] for panel in DASHBOARD["panels"]] for key in ("id", "title"))
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, place
        assert max(x for x, _ in cells) < 24, place
        taken |= cells


def test_the_pages_explain_each_alert_and_each_panel_of_what_is_slow() -> None:
    for alert, rule in RULES.items():
        assert f"| `{alert}` | {rule['labels']['severity']} |" in PAGE, alert
    assert set(re.findall(r"`(KDCube\w+)`", PAGE)) == RULES.keys()
    titles = {panel["title"] for panel in PANELS}
    explained = set(re.findall(r"\*{1,2}([A-Z].+?)\*{1,2}", PAGE))
    assert explained <= titles, f"there are no such panels: {explained - titles}"
    rows = [panel["title"] for panel in DASHBOARD["panels"]]
    first, last = rows.index("Where is it slow?"), rows.index("Queue and slots")
    assert set(rows[first + 1 : last]) <= explained
    assert "(dashboards.md#where-is-it-slow)" in TROUBLE


def kept(query: str) -> set[str]:
    """The labels by which the outermost aggregation groups."""
    return {label for grouping in re.findall(r"\bby \((.*?)\)", query) for label in re.split(r",\s*", grouping)}
