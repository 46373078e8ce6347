"""Where spans go: the variables of OpenTelemetry that have a meaning here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self
from urllib.parse import unquote, urlsplit

from kdcube.config.environment import Environment
from kdcube.protocol.errors import ConfigurationError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_SHARE = "OTEL_TRACES_SAMPLER_ARG"

TRACING_VARIABLES = (
    *(ENDPOINT, _TRACES_ENDPOINT, _HEADERS, "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"),
    *("OTEL_TRACES_SAMPLER", _SHARE, "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"),
    *("OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
    "OTEL_EXPORTER_OTLP_COMPRESSION",
)
"""All that count, those included that OpenTelemetry's own packages look at."""


class Sampler(StrEnum):
    """Which traces are recorded. ``parentbased``: what the sender of the request has decided holds."""

    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    RATIO = "traceidratio"
    PARENT_OR_ON = "parentbased_always_on"
    PARENT_OR_OFF = "parentbased_always_off"
    PARENT_OR_RATIO = "parentbased_traceidratio"


class _Exporter(StrEnum):
    OTLP = "otlp"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Where spans are sent, and of which traces. URL and headers may hold credentials."""

    endpoint: str = field(repr=False)
    """The whole URL, with its path."""
    headers: Mapping[str, str] = field(repr=False)
    sampler: Sampler
    share: float
    """Of traces that a sampler with a ratio records."""
    service_name: str | None

    @classmethod
    def read(cls, environment: Environment) -> Self | None:
        """None when nobody collects spans. Raises ConfigurationError."""
        _ask_for_the_rest(environment)
        base, whole = environment.optional(ENDPOINT), environment.optional(_TRACES_ENDPOINT)
        protocol = environment.text("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        headers = environment.secret(_HEADERS)
        sampler = environment.choice("OTEL_TRACES_SAMPLER", Sampler, Sampler.PARENT_OR_ON)
        share = environment.text(_SHARE, "1")
        service_name = environment.optional("OTEL_SERVICE_NAME")
        exporter = environment.choice("OTEL_TRACES_EXPORTER", _Exporter, _Exporter.OTLP)
        if environment.flag("OTEL_SDK_DISABLED", False) or exporter is _Exporter.NONE or (base or whole) is None:
            return None
        if protocol != "http/protobuf":
            raise ConfigurationError(
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                f"is {protocol!r}; give http/protobuf, and the address of the collector for it (often port 4318)",
            )
        endpoint = whole or f"{(base or '').rstrip('/')}/v1/traces"
        _check_url(_TRACES_ENDPOINT if whole else ENDPOINT, endpoint)
        return cls(
            endpoint=endpoint,
            headers=_headers(headers.get_secret_value() if headers else ""),
            sampler=sampler,
            share=_share(share),
            service_name=service_name,
        )


def _ask_for_the_rest(environment: Environment) -> None:
    """OpenTelemetry's packages read these themselves, when spans are recorded: here they only count as read."""
    environment.optional("OTEL_EXPORTER_OTLP_CERTIFICATE")
    environment.optional("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
    environment.optional("OTEL_EXPORTER_OTLP_CLIENT_KEY")
    environment.optional("OTEL_EXPORTER_OTLP_COMPRESSION")
    environment.optional("OTEL_RESOURCE_ATTRIBUTES")


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:  # without its value, which may hold a password
        raise ConfigurationError(name, "is no URL of a collector; give one like http://collector:4318")


def _headers(given: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for entry in given.split(","):
        name, equals, value = entry.partition("=")
        if equals and name.strip():
            headers[unquote(name.strip())] = unquote(value.strip())
        elif entry.strip():
            raise ConfigurationError(_HEADERS, "has an entry that is no name=value; give them separated by commas")
    return headers


def _share(given: str) -> float:
    try:
        share = float(given)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:  # so that NaN fails as well
        raise ConfigurationError(_SHARE, f"is {given!r}; give the share of traces to record, from 0 to 1")
    return share
