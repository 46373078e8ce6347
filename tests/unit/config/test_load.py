"""The settings of the services, from an environment that the test hands in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from kdcube.config.auth import AuthProvider
from kdcube.config.ingress import IngressSettings
from kdcube.config.load import load
from kdcube.config.proc import ProcSettings
from kdcube.protocol.errors import ConfigurationError

STORES = {"REDIS_URL": "redis://:hunter2@cache", "DATABASE_URL": "postgresql://u:hunter2@db/kdcube"}
INGRESS = {**STORES, "KDCUBE_SESSION_SECRET": "hunter2" * 6}


def test_the_defaults():
    ingress, proc = load(IngressSettings, INGRESS), load(ProcSettings, STORES)
    auth = ingress.callers.auth
    assert (ingress.service.host, ingress.service.port, proc.service.port) == ("127.0.0.1", 8010, 8020)
    assert (auth.provider, auth.anonymous) == (AuthProvider.NONE, True)
    assert (auth.id_token_header, auth.token_cookie, auth.id_token_cookie) == (
        "X-ID-Token", "__Secure-LATC", "__Secure-LITC",
    )  # fmt: skip
    assert (ingress.keepalive_s, ingress.callers.cors.allow_origins) == (15, ())
    assert (proc.slots, proc.turn_limit_s, proc.heartbeat_interval_s) == (16, 1800, 5)
    assert proc.drain_timeout_s < proc.stop_timeout_s == 120
    assert ingress.service.instance_id != proc.service.instance_id
    assert ingress.service.home.is_absolute()


def test_what_is_given():
    proc = load(
        ProcSettings,
        {
            **STORES, "KDCUBE_SLOTS": "4", "CHAT_TASK_TIMEOUT_SEC": "600", "PROC_CONTAINER_STOP_TIMEOUT_SEC": "8",
            "HEARTBEAT_INTERVAL": "0.5", "INSTANCE_ID": "p1", "KDCUBE_REVISION": "r2", "LOG_LEVEL": "WARNING",
            "KDCUBE_HOME": "/data", "CHAT_PROCESSOR_PORT": "9000", "KDCUBE_FAILPOINTS": "a=error",
            "MODEL_KEY": "hunter2", "OTHER": "hunter2", "EMPTY": "",
            "AGENTIC_BUNDLES_JSON": '{"bundles": {"a": {"path": "/a", "secrets": ["MODEL_KEY", "EMPTY"]}}}',
        },
    )  # fmt: skip
    service = proc.service
    assert (proc.slots, proc.turn_limit_s, proc.drain_timeout_s, proc.heartbeat_interval_s) == (4, 600, 6, 0.5)
    assert (service.instance_id, service.revision, service.log_level, service.port) == ("p1", "r2", "warning", 9000)
    assert (service.home, service.failpoints) == (Path("/data"), "a=error")
    key, empty = proc.secrets.variable("MODEL_KEY"), proc.secrets.variable("EMPTY")
    assert key is not None and key.get_secret_value() == "hunter2" and empty is None
    assert "hunter2" not in repr(proc)


def test_secrets_stay_out_of_the_representation():
    ingress = load(IngressSettings, INGRESS)
    assert "hunter2" not in repr(ingress)
    assert ingress.callers.session_secret.get_secret_value() == INGRESS["KDCUBE_SESSION_SECRET"]


def test_the_database_put_together_of_its_parts():
    parts = {
        "REDIS_URL": "redis://c", "POSTGRES_HOST": "db.internal", "POSTGRES_PORT": "6000", "POSTGRES_USER": "a@b",
        "POSTGRES_PASSWORD": "s3cret with/space@?#%", "POSTGRES_DATABASE": "kd cube", "POSTGRES_SSL": "True",
    }  # fmt: skip
    url = urlsplit(load(ProcSettings, parts).service.database_url)
    assert (url.hostname, url.port, unquote(url.username or "")) == ("db.internal", 6000, "a@b")
    assert unquote(url.password or "") == "s3cret with/space@?#%"
    assert (unquote(url.path), url.query) == ("/kd cube", "sslmode=require")
    assert load(ProcSettings, {**parts, "POSTGRES_SSL": "verify-full"}).service.database_url.endswith("=verify-full")
    assert "sslmode" not in load(ProcSettings, {**parts, "POSTGRES_SSL": "False"}).service.database_url
    assert load(ProcSettings, {**parts, "POSTGRES_HOST": "/run/pg"}).service.database_url.endswith(
        "@/kd%20cube?host=%2Frun%2Fpg&port=6000"
    )
    assert "@[::1]:6000/" in load(ProcSettings, {**parts, "POSTGRES_HOST": "::1"}).service.database_url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///kdcube?host=/run/postgresql&port=6000",
        "postgres://u:p%40@one:5432,two:5433/kdcube?target_session_attrs=read-write",
        f"postgresql://[::1]:6000/kdcube?sslmode=verify-full&sslrootcert={__file__}",
    ],
)
def test_a_database_url_is_taken_as_it_is(url):
    assert load(ProcSettings, {**STORES, "DATABASE_URL": url}).service.database_url == url


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("REDIS_URL", "", "is not set; give redis://"),
        ("DATABASE_URL", "", "is not set; give it, or POSTGRES_HOST"),
        ("DATABASE_URL", "mysql://hunter2@x", "no PostgreSQL URL"),
        ("DATABASE_URL", "postgresql://u:hunter2@db:port/kdcube", "no PostgreSQL URL; give postgresql://"),
        ("DATABASE_URL", "postgresql://u:hunter2@db:99999/kdcube", "no PostgreSQL URL"),
        ("DATABASE_URL", "postgresql://u:hunter2@[db/kdcube", "no PostgreSQL URL"),
        ("DATABASE_URL", "postgresql://u:hunter2@db/kdcube?sslmode", "no PostgreSQL URL"),
        ("DATABASE_URL", "postgresql://u:hunter2@db/kdcube?sslmode=on", "has the sslmode 'on'; give one of disable"),
        ("DATABASE_URL", "postgresql://u:hunter2@db/kdcube?sslrootcert=/absent.pem", "/absent.pem, which is no file"),
        ("KDCUBE_SESSION_SECRET", "", "is not set; give a random one"),
        ("KDCUBE_SESSION_SECRET", "hunter2", "shorter than 32"),
        ("CHAT_APP_PORT", "80000", "is '80000'; give a whole number from 1 to 65535"),
        ("CHAT_APP_PORT", "http", "is 'http'"),
        ("KDCUBE_KEEPALIVE_SEC", "nan", "give seconds from"),
        ("LOG_LEVEL", "loud", "give one of debug, info, warning, error"),
        ("AUTH_PROVIDER", "saml", "give one of simple, oidc, cognito, none"),
        ("KDCUBE_ANONYMOUS", "maybe", "give 1 or 0"),
        ("CORS_CONFIG", '{"allow_origins": "*", "allow_credentials": true}', "name the origins"),
        ("CORS_CONFIG", '{"origins": []}', "origins: unknown field"),
    ],
)
def test_what_is_wrong_is_told_with_a_remedy_and_without_secrets(name, value, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        load(IngressSettings, {**INGRESS, name: value})
    assert caught.value.name == name
    assert "hunter2" not in str(caught.value)


def test_cors_takes_one_name_for_a_list():
    cors = load(
        IngressSettings, {**INGRESS, "CORS_CONFIG": '{"allow_origins": ["http://a"], "allow_methods": "*"}'}
    ).callers.cors
    assert (cors.allow_origins, cors.allow_methods) == (("http://a",), ("*",))


def test_the_process_environment_is_the_default(monkeypatch):
    for name, value in STORES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KDCUBE_SLOTS", "3")
    assert load(ProcSettings).slots == 3
