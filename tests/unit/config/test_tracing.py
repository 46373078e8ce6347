from __future__ import annotations

import pytest

from kdcube.config.environment import Environment
from kdcube.config.tracing import ENDPOINT, Sampler, TracingSettings
from kdcube.protocol.errors import ConfigurationError

SOME = {ENDPOINT: "http://collector:4318/"}


def read(**variables: str) -> TracingSettings | None:
    return TracingSettings.read(Environment(variables))


def test_nobody_collects_without_an_endpoint():
    assert read() is None
    assert read(**SOME, OTEL_SDK_DISABLED="true") is None
    assert read(**SOME, OTEL_TRACES_EXPORTER="none") is None


def test_what_is_given_counts():
    settings = read(
        **SOME, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20hunter2, x-tenant=acme", OTEL_SERVICE_NAME="chat",
        OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25",
    )  # fmt: skip
    assert settings is not None
    assert settings.endpoint == "http://collector:4318/v1/traces"
    assert settings.headers == {"authorization": "Bearer hunter2", "x-tenant": "acme"}
    assert (settings.sampler, settings.share, settings.service_name) == (Sampler.RATIO, 0.25, "chat")
    assert "hunter2" not in repr(settings)
    whole = read(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://t.example.org/x", OTEL_EXPORTER_OTLP_ENDPOINT="http://c")
    assert whole is not None and whole.endpoint == "https://t.example.org/x"


@pytest.mark.parametrize(
    ("variables", "name", "remedy"),
    [
        ({ENDPOINT: "collector:4318/hunter2"}, ENDPOINT, "http://collector:4318"),
        ({ENDPOINT: "http://u:hunter2@:x"}, ENDPOINT, "http://collector:4318"),
        ({**SOME, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL", "give http/protobuf"),
        ({**SOME, "OTEL_EXPORTER_OTLP_HEADERS": "hunter2"}, "OTEL_EXPORTER_OTLP_HEADERS", "name=value"),
        ({**SOME, "OTEL_TRACES_SAMPLER": "jaeger"}, "OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ({**SOME, "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG", "from 0 to 1"),
    ],
)
def test_what_is_wrong_is_told_with_the_remedy_and_no_secret(variables, name, remedy):
    with pytest.raises(ConfigurationError) as error:
        read(**variables)
    assert name in str(error.value) and remedy in str(error.value) and "hunter2" not in str(error.value)
