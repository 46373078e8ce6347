from __future__ import annotations

import json
from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel

from kdcube.config.environment import Environment
from kdcube.config.gateway import GatewayConfig, PerComponent, read_gateway
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
    with pytest.raises(ConfigurationError, match="tenant and tenant_id differ"):
        parse(tenant="acme", tenant_id="other", project="support")
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
    assert config.bypass_throttling_patterns.proc == ("^/a$",)
    assert (config.guarded_rest_patterns.ingress, config.guarded_rest_patterns.proc) == ((), ("^/b$",))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"project": "support"}, "tenant: Field required"),
        ({**SCOPE, "limts": {}}, "limts: unknown field"),
        ({**SCOPE, "limits": {"proc": {"max_que": 1}}}, r"limits\.proc\.max_que: unknown field"),
        ({**SCOPE, "limits": {"max_que": 1}}, r"limits\.\w+\.max_que: unknown field"),
        ({**SCOPE, "limits": 3}, "limits: "),
        ({**SCOPE, "rate_limits": {"anonymous": {"hourly": -2}}}, r"anonymous\.hourly: .*greater than or equal to -1"),
        ({**SCOPE, "backpressure": {"paid_pressure_threshold": 0.5}}, "backpressure.*must not fall"),
        ({**SCOPE, "guarded_rest_patterns": ["("]}, "not a regular expression"),
        ({**SCOPE, "tenant": "a/b"}, "tenant: .*must be 1 to 63"),
        ({**SCOPE, "pools": {"pg_pool_min_size": 9}}, "pools.*above"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(sections, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        parse(**sections)
    assert caught.value.name == "GATEWAY_CONFIG_JSON"


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
        with pytest.raises(ConfigurationError, match=rf"{field}: Input should be ") as caught:
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
