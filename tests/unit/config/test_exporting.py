"""Where signals are exported to, and as what: what is wrong is named with its remedy, and nothing secret is shown."""

from __future__ import annotations

import json

import pytest

from kdcube.config.environment import Environment
from kdcube.config.exporting import CloudWatchSettings, ExportSettings, PushSettings, Renamed
from kdcube.config.gateway import read_gateway
from kdcube.config.signals import OLDER, SIGNALS, WITHOUT_SIGNAL, Unit
from kdcube.protocol.errors import ConfigurationError

GATEWAY = {"GATEWAY_CONFIG_JSON": '{"tenant": "acme", "project": "support"}'}


def read(**variables: str) -> ExportSettings:
    environment = Environment({**GATEWAY, **variables})
    return ExportSettings.read(environment, read_gateway(environment))


def mapping(document: object) -> ExportSettings:
    return read(METRICS_MAPPING_JSON=json.dumps(document))


def test_nothing_is_exported_by_default():
    settings = read()
    assert (settings.cloudwatch.enabled, settings.push, settings.scheduled) == (False, None, False)
    assert (settings.every_s, settings.on_start, settings.scrape_ttl_s) == (30, True, 10)


def test_cloudwatch_tells_installations_apart_by_default():
    settings = read(METRICS_EXPORT_CLOUDWATCH="1", AWS_REGION="eu-central-1", METRICS_CLOUDWATCH_REGION="eu-west-1")
    assert settings.cloudwatch == CloudWatchSettings(
        enabled=True,
        namespace="KDCube/Metrics",
        dimensions=(("tenant", "acme"), ("project", "support")),
        region="eu-west-1",
        endpoint=None,
    )


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("{}", ()),
        ('{"env": "prod", "shard": 7}', (("env", "prod"), ("shard", "7"))),
        ('[{"Name": "env", "Value": "prod"}, {"name": "x", "value": "y"}]', (("env", "prod"), ("x", "y"))),
    ],
)
def test_dimensions(text, pairs):
    settings = read(METRICS_EXPORT_CLOUDWATCH="1", METRICS_CLOUDWATCH_DIMENSIONS_JSON=text)
    assert settings.cloudwatch.dimensions == pairs


def test_the_password_of_a_push_gateway_is_not_shown():
    variables = {
        "METRICS_EXPORT_PROMETHEUS_PUSH": "1",
        "METRICS_PROM_PUSHGATEWAY_URL": "ops:hunter2@push:9091/",
        "METRICS_PROM_GROUPING_LABELS_JSON": '{"tenant": "acme"}',
    }
    settings = read(**variables)
    assert settings.push == PushSettings(
        url="http://ops:hunter2@push:9091", job="kdcube_metrics", labels=(("tenant", "acme"),)
    )
    assert "hunter2" not in repr(settings)
    with pytest.raises(ConfigurationError) as caught:
        read(**{**variables, "METRICS_PROM_PUSHGATEWAY_URL": "ftp://ops:hunter2@push"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "given", "renamed"),
    [
        (
            "ingress.sse.total_connections",
            {"name": "Ingress/SSEConnections", "unit": "Count"},
            Renamed("Ingress/SSEConnections", Unit.COUNT),
        ),
        ("proc.queue.total", "Queue.Total", Renamed("Queue/Total", None)),
        ("proc.queue.total", {"cloudwatch_name": "Q"}, Renamed("Q", None)),
        ("proc.exec.p95_ms", {"unit": "Seconds"}, Renamed(None, Unit.SECONDS)),
        ("proc.queue.wait.p95", {"metric": "Wait", "unit": None}, Renamed("Wait", None)),
    ],
)
def test_signals_are_renamed_by_their_source_keys(key, given, renamed):
    assert mapping({key: given}).mapping == {OLDER.get(key, key): renamed}


def test_every_older_key_is_known():
    assert {*OLDER.values()} <= SIGNALS.keys() and not OLDER.keys() & SIGNALS.keys()
    for key in OLDER:
        assert mapping({key: "X"}).mapping
    settings = mapping(dict.fromkeys(WITHOUT_SIGNAL, "X"))
    assert not settings.mapping and len(settings.warnings) == len(WITHOUT_SIGNAL)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("METRICS_MAPPING_JSON", "{", "is no JSON"),
        ("METRICS_MAPPING_JSON", "[]", "give a JSON object"),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.queue.totl": "X"}',
            "proc.queue.totl: unknown source key; did you mean proc.",
        ),
        ("METRICS_MAPPING_JSON", '{"zzz": "X"}', "zzz: unknown source key; give one of ingress.sse.total_connections"),
        ("METRICS_MAPPING_JSON", '{"proc.queue.total": 5}', 'proc.queue.total: give {"name"'),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.queue.total": {"nam": "X"}}',
            "proc.queue.total.nam: unknown field; give",
        ),
        ("METRICS_MAPPING_JSON", '{"proc.queue.total": {"name": ":X"}}', "proc.queue.total.name: give 1 to 255"),
        ("METRICS_MAPPING_JSON", '{"proc.queue.total": {"name": "Länge"}}', "proc.queue.total.name: give 1 to 255"),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.exec.p95_ms": {"unit": "Count"}}',
            'proc.exec.p95_ms.unit: is "Count"; give Milliseconds or Seconds or Microseconds',
        ),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.exec.p95_ms": {"unit": "ms"}}',
            "proc.exec.p95_ms.unit: is unknown; give M",
        ),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.queue.wait.p95": "X", "proc.queue.wait.p95_ms": "Y"}',
            "proc.queue.wait.p95_ms is the same as proc.queue.wait.p95; keep one",
        ),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.queue.total": "X", "proc.exec.p95_ms": "X"}',
            "proc.exec.p95_ms and proc.queue.total are both called X; rename one",
        ),
        (
            "METRICS_MAPPING_JSON",
            '{"proc.queue.total": "a/b", "proc.exec.p95_ms": "a_b"}',
            "both called kdcube_a_b",
        ),
        ("METRICS_CLOUDWATCH_NAMESPACE", "AWS/ECS", "beginning with neither a colon nor AWS/"),
        ("METRICS_CLOUDWATCH_DIMENSIONS_JSON", '{"env": null}', "env: give a text"),
        ("METRICS_CLOUDWATCH_DIMENSIONS_JSON", '{"env": ""}', "env: is an empty text; give 1 to 1024"),
        ("METRICS_CLOUDWATCH_DIMENSIONS_JSON", '{":env": "x"}', "the name :env: give 1 to 255"),
        ("METRICS_CLOUDWATCH_DIMENSIONS_JSON", '[{"Name": "env"}]', '0: give {"Name": …, "Value": …}'),
        (
            "METRICS_CLOUDWATCH_DIMENSIONS_JSON",
            json.dumps({f"d{number}": "x" for number in range(31)}),
            "has 31 dimensions; give at most 30",
        ),
        ("METRICS_EXPORT_PROMETHEUS_PUSH", "1", "METRICS_PROM_PUSHGATEWAY_URL: is not set; give http://host:9091"),
        ("METRICS_PROM_GROUPING_LABELS_JSON", '{"a-b": "x"}', "a-b: give letters, digits and _"),
        ("METRICS_EXPORT_INTERVAL_SEC", "1", "give seconds from 5 to 3600"),
    ],
)
def test_what_is_wrong_is_named(variable, value, told):
    with pytest.raises(ConfigurationError) as caught:
        read(**{variable: value})
    assert told in str(caught.value)
