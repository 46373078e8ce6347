"""Every shape in which the configuration may be written means the same, and what it means can be written again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from tests.unit.config.shapes import documents

from kdcube.config.gateway import GatewayConfig, Valid, check_gateway, check_gateway_document
from kdcube.config.profiles import PROFILES, Profile
from kdcube.config.resolution import SECTIONS, Source, resolve
from kdcube.config.sections import COMPONENTS

SCOPE = {"tenant": "acme", "project": "support"}


def valid(given: object) -> Valid:
    checked = check_gateway_document(given)
    assert isinstance(checked, Valid), checked
    return checked


@settings(deadline=None)
@given(documents)
def test_resolution_is_idempotent(document):
    once = resolve(document)
    again = resolve(once.document)
    assert again.document == once.document
    assert not again.errors and not again.warnings


@settings(deadline=None)
@given(documents)
def test_what_is_shown_loads_as_the_same(document):
    config = valid(document).config
    written = check_gateway(json.dumps(config.document()))
    assert isinstance(written, Valid)
    assert (written.config, written.config.checksum) == (config, config.checksum)


@settings(deadline=None)
@given(documents)
def test_a_component_loads_as_what_it_sees(document):
    config = valid(document).config
    for component in COMPONENTS:
        flat = valid(config.of(component)).config
        assert flat.of(component) == config.of(component)
        assert flat.limits.ingress == flat.limits.proc == config.limits.of(component)


@settings(deadline=None)
@given(documents)
def test_every_field_has_an_origin(document):
    checked = valid(document)
    for name, component in [(name, component) for name in SECTIONS for component in COMPONENTS]:
        for path, value in leaves(checked.config.document()[name][component], (name, component)):
            origin = checked.origins[path]
            match origin.source:
                case Source.GIVEN:
                    assert at(document, origin.path) is not None or value is None
                case Source.PROFILE:
                    assert value == at(PROFILES[checked.config.profile], (path[0], *path[2:]))
                case Source.DEFAULT:
                    assert value == at(GatewayConfig(tenant="a", project="b").document(), path)


def leaves(value, path):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, value


def at(value, path):
    for name in path:
        value = value[name]
    return value


@settings(deadline=None)
@given(documents)
def test_the_wrapper_of_older_files_changes_nothing(document):
    assert valid({"gateway": document}).config == valid(document).config
    assert valid({"$schema": "./gateway.schema.json", **document}).config == valid(document).config


def test_what_is_given_wins_over_the_profile_and_that_over_the_defaults():
    config = valid({**SCOPE, "profile": "production", "rate_limits": {"anonymous": {"burst": 3}}}).config
    assert config.rate_limits.ingress.anonymous.model_dump() == {"hourly": 120, "burst": 3, "burst_window": 60}
    assert config.backpressure.proc.capacity_buffer == 0.2
    assert config.limits.proc.max_queue_size == 2_000


@pytest.mark.parametrize("profile", Profile)
def test_every_profile_is_whole_and_plausible(profile):
    checked = valid({**SCOPE, "profile": profile.value})
    assert not checked.warnings
    assert checked.config.profile is profile


def test_the_spellings_of_the_older_services():
    config = valid(
        {
            **SCOPE,
            "limits": {"worker": {"max_integrations_concurrency": 7, "max_queue_size": 0}},
            "service_capacity": {"chat-rest": {"processes_per_instance": 3}},
            "backpressure": {"capacity_source_component": "processor", "ingress": {"capacity_buffer": 0.3}},
            "rate_limits": {"roles": {"paid": {"burst": 5}}, "proc": {"roles": {"paid": {"burst": 6}}}},
        }
    ).config
    assert config.limits.proc.max_integrations_ops_concurrency == 7
    assert config.limits.proc.max_queue_size == 10_000_000
    assert config.service_capacity.ingress.processes_per_instance == 3
    assert config.backpressure.proc.capacity_source_component == "chat:proc"
    assert (config.rate_limits.ingress.paid.burst, config.rate_limits.proc.paid.burst) == (5, 6)
