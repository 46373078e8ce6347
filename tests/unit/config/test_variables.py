"""Variables that mean nothing to a service are told at its start, by name and with the reason."""

from __future__ import annotations

import ast
import base64
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdcube.config.environment import Environment
from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load_service, misspelt_variables
from kdcube.config.metrics import MetricsSettings
from kdcube.config.proc import ProcSettings
from kdcube.config.proxylogin import ProxyLoginSettings
from kdcube.config.variables import READERS, UNUSED_MAX, WITHOUT_MEANING, unused
from kdcube.protocol.errors import ConfigurationError

SOURCES = Path(__file__).parents[3] / "src" / "kdcube"
METHODS = {"optional", "text", "required", "secret", "path", "integer", "seconds", "flag", "choice", "document"}
STORES = {"REDIS_URL": "redis://cache", "DATABASE_URL": "postgresql://db/kdcube"}
INGRESS = {**STORES, "KDCUBE_SESSION_SECRET": "x" * 32}


def variables_read() -> set[str]:
    """Every name that some code asks an Environment for."""
    found: set[str] = set()
    for file in SOURCES.rglob("*.py"):
        tree = ast.parse(file.read_text())
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "port_name"]
            if (
                isinstance(call.func, ast.Attribute)
                and call.func.attr in METHODS
                and isinstance(call.func.value, ast.Name)
                and call.func.value.id == "environment"
            ):
                named += call.args[:1]
            for name in named:
                if isinstance(name, ast.Constant):
                    found.add(name.value)
                elif isinstance(name, ast.Name) and name.id in constants:
                    found.add(constants[name.id])
    return found


def test_every_variable_that_is_read_is_known():
    """One that is new gets a row in READERS, and one in docs/configuration.md."""
    read = variables_read()
    assert len(read) > 40
    assert read - set(READERS) == set()
    assert set(READERS) - read == set()
    assert not set(READERS) & set(WITHOUT_MEANING)


STORE_VARIANTS = [{"DATABASE_URL": "postgresql://db/kdcube"}, {"POSTGRES_HOST": "db"}]
PROVIDER_VARIANTS = [
    {},
    {"AUTH_PROVIDER": "oidc", "OIDC_ISSUER": "https://id.example.org", "OIDC_CLIENT_ID": "kdcube"},
    {"AUTH_PROVIDER": "cognito", "COGNITO_USER_POOL_ID": "eu-west-1_Ab", "COGNITO_APP_CLIENT_ID": "kdcube"},
]
LOGINS = {
    "PROXYLOGIN_ENCRYPTION_KEYS": base64.b64encode(b"k" * 32).decode(),
    "PROXYLOGIN_PUBLIC_URL": "https://chat.example.org",
}


@pytest.mark.parametrize(
    ("settings", "service"),
    [
        (IngressSettings, "ingress"),
        (ProcSettings, "proc"),
        (ProxyLoginSettings, "proxylogin"),
        (MetricsSettings, "metrics"),
    ],
)
def test_each_service_reads_what_it_is_said_to(settings, service):
    asked: set[str] = set()
    for store, provider in itertools.product(STORE_VARIANTS, PROVIDER_VARIANTS):
        if service == "proxylogin" and not provider:
            continue
        environment = Environment({**INGRESS, "DATABASE_URL": "", **LOGINS, **store, **provider})
        settings.read(environment)
        asked |= environment.asked
    assert asked == {name for name, readers in READERS.items() if service in readers}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("KDCUBE_SLOT", "unknown; did you mean KDCUBE_SLOTS?"),
        ("kdcube_slots", "unknown; did you mean KDCUBE_SLOTS?"),
        ("KDCUBE_STORAGE_PATCH", "unknown; did you mean KDCUBE_STORAGE_PATH?"),
        ("GATWAY_CONFIG_JSON", "unknown; did you mean GATEWAY_CONFIG_JSON?"),
        ("HEARTBEAT_INTERVALL", "unknown; did you mean HEARTBEAT_INTERVAL?"),
        ("CHAT_APP_PORT", "ingress reads it"),
        ("OIDC_CLIENT_SECRET", "proxylogin reads it"),
        ("POSTGRES_HOST", "it is not read, as other variables are set"),
        ("REDIS_PASSWORD", "REDIS_URL says where Valkey is, with the password"),
        ("TENANT_ID", "GATEWAY_CONFIG_JSON says it"),
        ("APP_AV_TIMEOUT_S", "uploads are not scanned for viruses"),
        ("OPENAI_API_KEY", 'bundles inherit nothing: grant it by name, with "secrets" in AGENTIC_BUNDLES_JSON'),
        ("SOMETHING", "unknown"),
    ],
)
def test_the_reason_is_told_where_it_is_known(name, told):
    _, warnings = load_service(ProcSettings, "proc", {**STORES, name: "hunter2"})
    assert warnings == [f"{name}: {told}"]


@pytest.mark.parametrize(
    "variables",
    [
        {
            "PATH": "x",
            "LC_ALL": "x",
            "HOSTNAME": "x",
            "PYTHONPATH": "x",
            "HTTPS_PROXY": "x",
            "ECS_CONTAINER_METADATA": "x",
        },
        {"CACHE_SERVICE_HOST": "x", "CACHE_SERVICE_PORT_MAIN": "1", "CACHE_PORT": "x", "CACHE_PORT_6379_TCP_ADDR": "x"},
        {"SOMETHING": "", "KDCUBE_SLOT": " "},
        {
            "MODEL_KEY": "hunter2",
            "AGENTIC_BUNDLES_JSON": '{"bundles": {"a": {"path": "/a", "secrets": ["MODEL_KEY"]}}}',
        },
    ],
)
def test_what_the_system_sets_and_what_is_used_is_not_told(variables):
    assert load_service(ProcSettings, "proc", {**STORES, **variables})[1] == []


def test_many_are_counted():
    told = unused([f"X{number:03}" for number in range(UNUSED_MAX + 5)], (), "proc")
    assert len(told) == UNUSED_MAX + 1
    assert told[-1] == "and 5 more"


def test_names_fit_into_a_line():
    assert unused(["a\nb"], (), "proc") == ["'a\\nb': unknown"]
    assert len(unused(["X" * 10_000], (), "proc")[0]) < 100


def test_what_is_probably_not_meant_in_the_gateway_is_told_as_well():
    document = json.dumps({"tenant": "a", "project": "b", "redis_url": "redis://:hunter2@h"})
    _, warnings = load_service(IngressSettings, "ingress", {**INGRESS, "GATEWAY_CONFIG_JSON": document})
    assert warnings == [
        "GATEWAY_CONFIG_JSON: redis_url: means nothing here and is left out: REDIS_URL says where Valkey is"
    ]


def test_of_a_shell_only_what_looks_like_ours_is_told():
    shell = {"KDCUBE_SLOT": "3", "KDCUBE_HOME": "/x", "SOMETHING": "1", "POSTGRES_PASSWRD": "x", "CHAT_MODEL": "y"}
    assert misspelt_variables(shell) == ["KDCUBE_SLOT: unknown; did you mean KDCUBE_SLOTS?"]


@pytest.mark.parametrize("service", ["ingress", "proc"])
def test_a_service_logs_them_once_at_its_start(service, tmp_path):
    """By name only. The service then fails, as there is no Valkey."""
    variables = {
        **INGRESS,
        "REDIS_URL": "redis://127.0.0.1:1",
        "PATH": os.environ["PATH"],
        "KDCUBE_HOME": str(tmp_path),
        "LOG_LEVEL": "WARNING",
        "GATEWAY_COMPONENT": service,
        "KDCUBE_SLOT": "hunter2",
        "APP_AV_SCAN": "hunter2",
    }
    done = subprocess.run(
        [sys.executable, "-m", f"kdcube.{service}"], env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines() if "without_meaning" in line]
    assert len(lines) == 1
    assert "KDCUBE_SLOT: unknown; did you mean KDCUBE_SLOTS?" in lines[0]["warnings"]
    assert "APP_AV_SCAN: uploads are not scanned for viruses" in lines[0]["warnings"]
    assert lines[0]["level"] == "warning"
    assert "hunter2" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "fits"), [("proc", True), ("worker", True), ("ingress", False), ("prok", False)])
def test_the_component_may_only_be_what_the_service_is(given, fits):
    if fits:
        assert load_service(ProcSettings, "proc", {**STORES, "GATEWAY_COMPONENT": given})[1] == []
        return
    with pytest.raises(ConfigurationError, match=r"GATEWAY_COMPONENT: is .*(this is proc|give one of ingress, proc)"):
        load_service(ProcSettings, "proc", {**STORES, "GATEWAY_COMPONENT": given})
