"""The environment files of a docker-compose installation of the older services load as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kdcube.config.auth import AuthProvider
from kdcube.config.gateway import Valid, check_gateway
from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load, load_service
from kdcube.config.metrics import MetricsSettings
from kdcube.config.proc import ProcSettings
from kdcube.protocol.errors import ConfigurationError
from kdcube.protocol.turns import UserType
from kdcube.redis.endpoint import Endpoint, parse_endpoint

FILES = Path(__file__).parents[2] / "fixtures" / "existing-installation"
OURS = {"KDCUBE_SESSION_SECRET": "x" * 32}
"""What the older services did not have."""

_ASSIGNMENT = re.compile(r"""^(\w+)=(?:'([^']*)'|"([^"]*)"|(.*?))(?:[ \t]+\#.*)?$""", re.MULTILINE)


def environment(name: str) -> dict[str, str]:
    """What compose makes of a file: the last assignment counts, and ``${NAME}`` stands for one above, except in ''."""
    variables: dict[str, str] = {}
    for variable, literal, quoted, bare in _ASSIGNMENT.findall((FILES / name).read_text()):
        text = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], quoted or bare)
        variables[variable] = literal or text
    return variables


def test_ingress():
    settings = load(IngressSettings, {**environment(".env.ingress"), **OURS})
    service = settings.service
    assert (service.port, service.log_level, service.storage_path) == (8010, "warning", "file:///kdcube-storage")
    assert service.database_url == "postgresql://kdcube:s3cret%20with%20space@db.internal:5432/kdcube"
    assert parse_endpoint(service.redis_url) == Endpoint("redis", password="p@ss")
    auth, cors = settings.callers.auth, settings.callers.cors
    assert (auth.provider, auth.id_token_header) == (AuthProvider.SIMPLE, "X-ID-Token")
    assert (auth.token_cookie, auth.id_token_cookie) == ("__Secure-LATC", "__Secure-LITC")
    assert cors.allow_origins == ("http://localhost:5173", "https://chat.example.org")
    assert (cors.allow_credentials, cors.allow_methods, cors.allow_headers) == (True, ("*",), ("*",))


def test_proc():
    settings = load(ProcSettings, environment(".env.proc"))
    assert (settings.service.port, settings.slots, settings.turn_limit_s) == (8020, 8, 600)
    registry = settings.service.bundles
    assert registry.default_bundle_id == "support@2.0.0"
    support, ops = registry.bundles["support@2.0.0"], registry.bundles["ops@1-3"]
    assert (support.path, support.module) == ("/bundles/support@2.0.0", "support.entrypoint")
    assert (support.git_ref, support.git_subdir) == ("v2.0.0", "support")
    assert (ops.path, ops.module) == ("/bundles", "ops@1-3.entrypoint")
    assert (ops.git_ref, ops.git_subdir) == ("bundle-v2026.02.22", "ops")


def test_metrics():
    settings, warnings = load_service(MetricsSettings, "metrics", environment(".env.metrics"))
    service, export = settings.service, settings.export
    assert (service.port, service.gateway.tenant, service.gateway.project) == (8090, "acme", "support")
    assert parse_endpoint(service.redis_url) == Endpoint("redis", password="p@ss")
    assert (settings.run_once, export.scheduled, export.every_s, export.on_start) == (False, True, 30, True)
    assert export.mapping["ingress.sse.total_connections"].name == "Ingress/SSEConnections"
    assert (export.cloudwatch.namespace, dict(export.cloudwatch.dimensions)["env"]) == ("KDCube/Metrics", "prod")
    assert not export.wanted  # both exports are off in it
    assert warnings == ["REDIS_PASSWORD: REDIS_URL says where Valkey is, with the password"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("METRICS_MODE", "proxy", "give redis: services tell their figures in Valkey"),
        ("METRICS_MODE", "push", "give one of redis"),
        ("METRICS_RUN_ONCE", "once", "give 1 or 0"),
        ("METRICS_PORT", "0", "give a whole number from 1 to 65535"),
    ],
)
def test_what_is_wrong_for_the_metrics_service_is_named(name, value, told):
    with pytest.raises(ConfigurationError, match=f"{name}: is .*{told}"):
        load(MetricsSettings, {**environment(".env.metrics"), name: value})


def test_what_only_asked_other_services_does_nothing():
    older = {"METRICS_INGRESS_BASE_URL": "http://ingress:8010", "METRICS_AUTH_HEADER_VALUE": "Bearer hunter2"}
    _, warnings = load_service(MetricsSettings, "metrics", {**environment(".env.metrics"), **older})
    assert [line for line in warnings if "asks nobody else" in line and "hunter2" not in line] == warnings[:2]


def test_the_configuration_that_both_run():
    ingress = load(IngressSettings, {**environment(".env.ingress"), **OURS}).service.gateway
    gateway = load(ProcSettings, environment(".env.proc")).service.gateway
    assert ingress.checksum == gateway.checksum
    assert (gateway.tenant, gateway.project, gateway.profile) == ("acme", "support", "production")
    pressure, rates = gateway.backpressure.ingress, gateway.rate_limits.ingress
    assert (pressure.capacity_buffer, pressure.queue_depth_multiplier) == (0.15, 2.5)
    assert [pressure.threshold(user_type) for user_type in UserType] == [0.97, 0.9, 0.8, 0.5, 0.8]
    assert (rates.anonymous.hourly, rates.paid.burst, rates.privileged.hourly) == (60, 120, -1)
    assert (gateway.limits.ingress.max_sse_connections_per_instance, gateway.limits.proc.max_queue_size) == (400, 250)
    assert (gateway.pools.ingress.pg_pool_max_size, gateway.pools.proc.pg_pool_max_size) == (4, 8)
    assert gateway.pools.proc.pg_max_connections == 90
    assert gateway.bypass_throttling_patterns.ingress.texts == ("^.*/webhooks/stripe$",)


def test_what_means_nothing_here_is_told_once():
    _, ingress = load_service(IngressSettings, "ingress", {**environment(".env.ingress"), **OURS})
    _, proc = load_service(ProcSettings, "proc", environment(".env.proc"))
    assert ingress == [
        "APP_AV_SCAN: uploads are not scanned for viruses",
        "HEARTBEAT_INTERVAL: proc reads it",
        "LOG_DIR: logs go to standard error",
        "REDIS_PASSWORD: REDIS_URL says where Valkey is, with the password",
    ]
    assert [line.partition(": ")[0] for line in proc] == [
        "BUNDLE_GIT_RESOLUTION_ENABLED",
        "EXEC_WORKSPACE_ROOT",
        "PY_CODE_EXEC_IMAGE",
        "PY_CODE_EXEC_NETWORK_MODE",
        "PY_CODE_EXEC_TIMEOUT",
        "REDIS_PASSWORD",
    ]
    assert not any(line.endswith("unknown") for line in proc)


@pytest.mark.parametrize("name", [".env.metrics", ".env.ingress", ".env.proc"])
def test_every_file_has_a_configuration_that_is_valid_and_plausible(name):
    checked = check_gateway(environment(name)["GATEWAY_CONFIG_JSON"])
    assert isinstance(checked, Valid)
    assert not checked.warnings


def changed(variables: dict[str, str], name: str, old: str, new: str) -> dict[str, str]:
    assert variables[name].count(old)
    return {**variables, name: variables[name].replace(old, new)}


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (
            "GATEWAY_CONFIG_JSON",
            '"hourly": 60',
            '"hourly": "60"',
            r'anonymous\.hourly: is "60"; give a whole number from -1',
        ),
        ("GATEWAY_CONFIG_JSON", "max_queue_size", "max_queue_length", "did you mean max_queue_size"),
        ("GATEWAY_CONFIG_JSON", '"paid_pressure_threshold": 0.9', '"paid_pressure_threshold": 0.7', "must not fall"),
        ("AGENTIC_BUNDLES_JSON", '"id": "ops@1-3"', '"id": "ops"', r"bundles\.ops@1-3\.id is 'ops'"),
        ("AGENTIC_BUNDLES_JSON", '"module"', '"singletn"', r"ops@1-3\.singletn: unknown field; did you mean singleton"),
        (
            "AGENTIC_BUNDLES_JSON",
            '"default_bundle_id": "support',
            '"default_bundle_id": "help',
            "not among the bundles",
        ),
        ("CHAT_TASK_TIMEOUT_SEC", "600", "10 min", "is '10 min'; give seconds from 1 to 86400"),
        ("POSTGRES_PORT", "5432", "5432/tcp", "is '5432/tcp'; give a whole number"),
        ("REDIS_URL", "redis://:p@ss@redis:6379/0", "", "is not set; give redis://"),
    ],
)
def test_what_is_wrong_in_it_is_named(name, old, new, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        load(ProcSettings, changed(environment(".env.proc"), name, old, new))
    assert caught.value.name == name
    assert "p@ss" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_what_an_existing_installation_must_add():
    with pytest.raises(ConfigurationError, match="KDCUBE_SESSION_SECRET: is not set; give a random one"):
        load(IngressSettings, environment(".env.ingress"))


def test_a_bundle_from_git_alone_loads_until_it_is_to_run():
    """The registry keeps it; the bundle then does not load (tests/integration/proc/bundles/test_pool.py)."""
    registry = json.loads(environment(".env.proc")["AGENTIC_BUNDLES_JSON"])
    del registry["bundles"]["ops@1-3"]["path"]
    settings = load(ProcSettings, {**environment(".env.proc"), "AGENTIC_BUNDLES_JSON": json.dumps(registry)})
    assert settings.service.bundles.bundles["ops@1-3"].path is None
