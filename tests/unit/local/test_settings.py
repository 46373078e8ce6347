"""What the environment says, and what of it the services see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcube.config.load import load
from kdcube.local.settings import LocalSettings
from kdcube.protocol.errors import ConfigurationError


def test_without_variables():
    settings = load(LocalSettings, {})
    assert settings.home == Path.cwd() / ".kdcube"
    assert settings.first_port == 8010
    assert settings.ingress_variables == settings.proc_variables == {}


def test_the_metrics_service_is_told_nothing_of_others():
    given = {
        "METRICS_EXPORT_CLOUDWATCH": "1",
        "LOG_LEVEL": "debug",
        "DATABASE_URL": "postgresql://u:p@h/d",
        "OIDC_CLIENT_SECRET": "secret",
        "KDCUBE_SESSION_SECRET": "secret",
        "GIT_HTTP_TOKEN": "secret",
    }
    settings = load(LocalSettings, given)
    assert settings.metrics_variables == {"METRICS_EXPORT_CLOUDWATCH": "1", "LOG_LEVEL": "debug"}


def test_services_see_what_they_document_and_nothing_else():
    registry = {"bundles": {"mine@1": {"path": "/mine", "secrets": ["MY_KEY"]}}}
    given = {
        "AGENTIC_BUNDLES_JSON": json.dumps(registry),
        "CORS_CONFIG": "{}",
        "HEARTBEAT_INTERVAL": "1",
        "LOG_LEVEL": "debug",
        "MY_KEY": " secret ",
        "OTHER_KEY": "secret",
        "REDIS_URL": "redis://elsewhere",
        "KDCUBE_SESSION_SECRET": "another",
    }
    settings = load(LocalSettings, given)
    assert settings.ingress_variables == {"CORS_CONFIG": "{}", "LOG_LEVEL": "debug"}
    assert settings.proc_variables == {
        "CORS_CONFIG": "{}",
        "HEARTBEAT_INTERVAL": "1",
        "LOG_LEVEL": "debug",
        "MY_KEY": " secret ",
    }
    assert " secret " not in repr(settings)


@pytest.mark.parametrize("port", ["0", "80", "65500", "eighty"])
def test_a_port_without_room_for_the_others_is_refused(port):
    with pytest.raises(ConfigurationError, match="KDCUBE_PORT"):
        load(LocalSettings, {"KDCUBE_PORT": port})


@pytest.mark.parametrize(
    ("provider", "signs_in"), [("oidc", True), (" Cognito ", True), ("simple", False), ("none", False)]
)
def test_people_sign_in_at_every_openid_provider(provider, signs_in):
    assert load(LocalSettings, {"AUTH_PROVIDER": provider}).signs_in is signs_in
