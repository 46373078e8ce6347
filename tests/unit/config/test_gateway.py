from __future__ import annotations

import json
from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel

from kdcube.config.environment import Environment
from kdcube.config.gateway import GatewayConfig, Invalid, Valid, check_gateway, check_gateway_document, read_gateway
from kdcube.config.sections import PerComponent
from kdcube.protocol.errors import ConfigurationError
from kdcube.protocol.turns import UserType


def parse(**sections) -> GatewayConfig:
    return read_gateway(Environment({"GATEWAY_CONFIG_JSON": json.dumps(sections)}))


SCOPE = {"tenant": "acme", "project": "support"}


def test_without_any_the_defaults_suit_a_laptop():
    config = read_gateway(Environment({}))
    assert (config.tenant, config.project) == ("local", "main")
    anonymous = config.rate_limits.ingress.of(UserType.ANONYMOUS)
    assert (anonymous.burst, anonymous.burst_window, anonymous.hourly) == (60, 60, 2_000)
    assert config.rate_limits.ingress.of(UserType.PRIVILEGED).hourly == -1
    assert [config.backpressure.ingress.threshold(user_type) for user_type in UserType] == [0.97, 0.9, 0.8, 0.6, 0.8]
    assert config.limits.ingress.max_queue_size == 2_000


def test_both_spellings_of_the_scope():
    config = parse(tenant_id="acme", project_id="support")
    assert (config.tenant, config.project) == ("acme", "support")
    assert parse(tenant="acme", tenant_id="acme", project="support").tenant == "acme"


def test_sections_are_flat_per_component_or_both():
    config = parse(
        **SCOPE,
        service_capacity={"avg_processing_time_seconds": 5, "proc": {"processes_per_instance": 3}},
        limits={"proc": {"max_queue_size": 250}, "ingress": {"max_sse_connections_per_instance": 400}},
        rate_limits={"anonymous": {"burst": 1}, "ingress": {"anonymous": {"hourly": 7}}},
        bypass_throttling_patterns=["^/a$"],
        guarded_rest_patterns={"proc": ["^/b$"]},
    )
    assert config.service_capacity.proc.processes_per_instance == 3
    assert config.service_capacity.ingress.processes_per_instance == 1
    assert config.service_capacity.ingress.avg_processing_time_seconds == 5
    assert (config.limits.proc.max_queue_size, config.limits.ingress.max_queue_size) == (250, 2_000)
    assert config.limits.ingress.max_sse_connections_per_instance == 400
    assert config.rate_limits.ingress.anonymous.model_dump() == {"hourly": 7, "burst": 1, "burst_window": 60}
    assert config.rate_limits.proc.anonymous.hourly == 2_000
    assert config.bypass_throttling_patterns.proc.texts == ("^/a$",)
    assert (config.guarded_rest_patterns.ingress.texts, config.guarded_rest_patterns.proc.texts) == ((), ("^/b$",))


LADDER = "they must not fall in the order anonymous, registered, paid, hard limit"


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"project": "support"}, "tenant: is missing; give the name of the tenant (or as tenant_id)"),
        ({**SCOPE, "limts": {}}, "limts: unknown field; did you mean limits?"),
        (
            {**SCOPE, "limits": {"proc": {"max_que": 1}}},
            "limits.proc.max_que: unknown field; did you mean max_queue_size?",
        ),
        ({**SCOPE, "limits": {"max_que": 1}}, "limits.max_que: unknown field; did you mean max_queue_size?"),
        ({**SCOPE, "limits": 3}, "limits: is 3; give an object"),
        ({**SCOPE, "limits": {"proc": []}}, "limits.proc: is a list of 0; give an object"),
        (
            {**SCOPE, "rate_limits": {"anonymous": {"hourly": -2}}},
            "rate_limits.anonymous.hourly: is -2; give a whole number from -1 to 1000000000",
        ),
        (
            {**SCOPE, "rate_limits": {"worker": {"roles": {"paid": {"burst": 0.5}}}}},
            "rate_limits.worker.roles.paid.burst: is 0.5; give a whole number from -1 to 1000000000",
        ),
        (
            {**SCOPE, "backpressure": {"proc": {"hard_limit_threshold": 1.5}}},
            "backpressure.proc.hard_limit_threshold: is 1.5; give a number above 0 and at most 1",
        ),
        (
            {**SCOPE, "backpressure": {"paid_pressure_threshold": 0.5}},
            "backpressure.paid_pressure_threshold: is 0.5, below registered_pressure_threshold, which is 0.8 by "
            "default; " + LADDER,
        ),
        (
            {**SCOPE, "backpressure": {"proc": {"registered_pressure_threshold": 0.95}}},
            "backpressure.proc.registered_pressure_threshold: is 0.95, above paid_pressure_threshold, which is 0.9 by "
            "default; " + LADDER,
        ),
        (
            {**SCOPE, "backpressure": {"capacity_source_component": "rest"}},
            'backpressure.capacity_source_component: is "rest", but ingress runs no turns, so it has no capacity; '
            "give chat:proc",
        ),
        ({**SCOPE, "guarded_rest_patterns": ["a", "("]}, "guarded_rest_patterns.1: is no regular expression of RE2: "),
        (
            {**SCOPE, "bypass_throttling_patterns": {"rest": ["(?!a)"]}},
            "bypass_throttling_patterns.rest.0: has look-ahead (?!…), which RE2 does not know",
        ),
        ({**SCOPE, "tenant": "a/b"}, 'tenant: is "a/b"; it must be 1 to 63 characters'),
        ({**SCOPE, "tenant_id": "other"}, "tenant_id: tenant and tenant_id differ; give one of them"),
        ({**SCOPE, "profile": "prod"}, 'profile: is "prod"; give one of development, testing, production, load_test'),
        (
            {**SCOPE, "pools": {"pg_pool_min_size": 9}},
            "pools.pg_pool_min_size: is 9, above pg_pool_max_size, which is 8 by",
        ),
        (
            {**SCOPE, "pools": {"pg_max_connections": 8, "proc": {"pg_pool_max_size": 9}}},
            "pools.pg_max_connections: is 8, below pg_pool_max_size, which is 9",
        ),
        (
            {**SCOPE, "limits": {"max_page_items": 0, "proc": {"max_page_items": 5}, "rest": {"max_page_items": 5}}},
            "limits.max_page_items: is 0; give a whole number from 1 to 1000",
        ),
        ({**SCOPE, "max_queue_size": 5}, "max_queue_size: unknown field here; it is a field of limits"),
        ({**SCOPE, "limits": {"profile": "x"}}, "limits.profile: unknown field here; it stands beside the sections"),
        ({**SCOPE, "proc": {}}, "proc: unknown field here; give it inside of a section, as in limits.proc"),
        ({"gateway": {**SCOPE, "limits": {"max_page_items": 0}}}, "gateway.limits.max_page_items: is 0; give a whole"),
        (
            {**SCOPE, "limits": {"proc": {}, "worker": {}}},
            "limits.worker: is the same component as proc; keep one of them",
        ),
    ],
)
def test_what_is_wrong_is_named_as_it_was_written(sections, told):
    with pytest.raises(ConfigurationError) as caught:
        parse(**sections)
    assert caught.value.name == "GATEWAY_CONFIG_JSON"
    assert str(caught.value).startswith(f"GATEWAY_CONFIG_JSON: {told}") or f"; {told}" in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once_and_once():
    checked = check_gateway_document(
        {
            "project": "support",
            "profil": "production",
            "limits": {"max_queue_size": "many", "proc": {"max_text_chars": 0}},
            "pools": {"pg_pool_min_size": 9},
            "guarded_rest_patterns": ["(", "a", "(?=b)"],
        }
    )
    assert isinstance(checked, Invalid)
    assert sorted(finding.path for finding in checked.errors) == [
        "guarded_rest_patterns.0",
        "guarded_rest_patterns.2",
        "limits.max_queue_size",
        "limits.proc.max_text_chars",
        "pools.pg_pool_min_size",
        "profil",
        "tenant",
    ]


def test_many_errors_are_counted():
    fields = {f"wrong_{number}": 1 for number in range(70)}
    checked = check_gateway_document({**SCOPE, "limits": fields})
    assert isinstance(checked, Invalid)
    assert len(checked.errors) == 51
    assert str(checked.errors[-1]) == "and 20 more"


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"pools": {"pg_max_connections": 20}, "service_capacity": {"proc": {"processes_per_instance": 4}}},
            "pools.pg_max_connections: is 20, but one instance of each service may open 40 connections "
            "(1 x 8 of ingress + 4 x 8 of proc)",
        ),
        (
            {"rate_limits": {"anonymous": {"hourly": 5}}},
            "rate_limits.anonymous.hourly: is 5, below burst (60), which is never reached",
        ),
        (
            {"rate_limits": {"proc": {"paid": {"hourly": 0}}}},
            "rate_limits.proc.paid.hourly: is 0: paid users can send nothing",
        ),
        (
            {"limits": {"max_live_turns_per_user": 3}},
            "limits.max_live_turns_per_user: is 3, below max_running_turns_per_user (8), which is never reached",
        ),
        (
            {"limits": {"ingress": {"max_queue_size": 5}}},
            "limits.ingress.max_queue_size: has no effect: only proc reads it, and there it is 2000",
        ),
        (
            {"backpressure": {"worker": {"capacity_buffer": 0.3}, "capacity_buffer": 0.2}},
            "backpressure.worker.capacity_buffer: has no effect: only ingress reads it, and there it is 0.2",
        ),
        (
            {"limits": {"proc": {"max_page_items": 5}}},
            "limits.proc.max_page_items: has no effect: only ingress reads it, and there it is 100",
        ),
        (
            {"circuit_breakers": {"auth_window_size": 1}},
            "circuit_breakers: means nothing here and is left out: breakers",
        ),
        (
            {"service_capacity": {"proc": {"concurrent_requests_per_instance": 16}}},
            "service_capacity.proc.concurrent_requests_per_instance: means nothing here and is left out: it follows",
        ),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(sections, told):
    checked = check_gateway_document({**SCOPE, **sections})
    assert isinstance(checked, Valid)
    assert str(checked.warnings[0]).startswith(told)


def test_no_secret_is_told():
    """Values of unknown fields, and texts that look like more than a word, are only measured."""
    secret, url = "s3cret-" * 8, "redis://:s3cret@host"
    documents = [
        {**SCOPE, "redis_password": "s3cret"},
        {**SCOPE, "redis_url": url},
        {**SCOPE, "redis_url": url, "limits": 1},
        {**SCOPE, "limits": {"max_page_items": secret}},
        {**SCOPE, "limits": {"max_page_items": url}},
        {**SCOPE, "tenant": url},
        {**SCOPE, "profile": secret},
        {**SCOPE, "guarded_rest_patterns": secret},
        {**SCOPE, "backpressure": {"capacity_source_component": url}},
        {**SCOPE, "rate_limits": {"anonymous": {"s": {"s": "s3cret"}}}},
    ]
    for document in documents:
        checked = check_gateway_document(document)
        assert "s3cret" not in repr(checked)
    for text in ('{"password": "s3cret"', '{"a": "s3cret" "b"}', "s3cret", '{"s": s3cret}'):
        assert "s3cret" not in repr(check_gateway(text))


def numbers(given: object, *path: str) -> Iterator[str]:
    """A document for every number in the configuration, with the word VALUE in its place."""
    if given in (int, float):
        yield "".join(f'{{"{name}": ' for name in path) + "VALUE" + "}" * len(path)
    elif isinstance(given, type) and issubclass(given, PerComponent):
        yield from numbers(given.model_fields["proc"].annotation, *path)
    elif isinstance(given, type) and issubclass(given, BaseModel):
        for name, field in given.model_fields.items():
            yield from numbers(field.annotation, *path, name)
    else:
        for part in get_args(given):
            yield from numbers(part, *path)


NUMBERS = list(numbers(GatewayConfig))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "-2", "1e30", "true", '"5"', "[1]"])
def test_every_number_has_limits_and_a_type(value):
    assert len(NUMBERS) > 40
    for document in NUMBERS:
        text = document.replace("VALUE", value).replace("{", '{"tenant": "a", "project": "b", ', 1)
        field = document.split('"')[-2]
        with pytest.raises(
            ConfigurationError, match=rf"({field}: is .*; give a (whole )?number|has -?(NaN|Infinity))"
        ) as caught:
            read_gateway(Environment({"GATEWAY_CONFIG_JSON": text}))
        assert caught.value.name == "GATEWAY_CONFIG_JSON"


@pytest.mark.parametrize("text", ["{", "[]", "3", '"x"', "[" * 100_000, '{"tenant": "\ud800"}'])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(ConfigurationError, match="GATEWAY_CONFIG_JSON"):
        read_gateway(Environment({"GATEWAY_CONFIG_JSON": text}))


def test_the_checksum_follows_the_meaning_and_not_the_spelling():
    flat = parse(**SCOPE, limits={"max_queue_size": 5})
    spelled_out = parse(
        limits={"proc": {"max_queue_size": 5}, "ingress": {"max_queue_size": 5}}, tenant_id="acme", project="support"
    )
    assert flat.checksum == spelled_out.checksum
    assert flat.checksum != parse(**SCOPE).checksum
