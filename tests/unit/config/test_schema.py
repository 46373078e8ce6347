"""The schema for editors and the loader take the same documents, as far as a schema can say."""

from __future__ import annotations

import copy
import json
import re

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.config.shapes import documents

from kdcube.config.gateway import GatewayConfig, Invalid, Valid, check_gateway, check_gateway_document
from kdcube.config.resolution import IGNORED, SECTIONS
from kdcube.config.schema import gateway_schema

SCHEMA = gateway_schema()
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)
ONLY_LOADING_SAYS = re.compile(
    r"(below|above) \w+, which is|differ; give one of them|no regular expression of RE2|which RE2 does not know"
)
NAMES = st.sampled_from(
    [
        *("tenant", "tenant_id", "project", "project_id", "profile", "gateway", "$schema", "x", ""),
        *("ingress", "rest", "proc", "worker", "roles", "anonymous", "paid", "hourly", "burst"),
        *SECTIONS,
        *(name for section in SECTIONS.values() for name in section.model_fields),
        *(str(path[-1]) for path in IGNORED),
        *("max_integrations_concurrency", "guarded_rest_patterns", "bypass_throttling_patterns"),
    ]
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, 5.0, 1e30, 10**12, "", "proc", "chat:proc", "rest", "production", "a/b", "^/a", "x" * 600]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(documents)
def test_what_loads_is_taken_by_the_schema(document):
    assert isinstance(check_gateway_document(document), Valid)
    VALIDATOR.validate(document)
    VALIDATOR.validate({"gateway": document, "$schema": "x"})


@settings(deadline=None, max_examples=500)
@given(documents, st.data())
def test_both_refuse_the_same(document, data):
    changed = {"document": copy.deepcopy(document)}
    for _ in range(data.draw(st.integers(1, 3))):
        changed["document"] = _changed(changed["document"], data)
    given_document = changed["document"]
    checked = check_gateway(json.dumps(given_document))
    if isinstance(checked, Valid):
        VALIDATOR.validate(given_document)
    elif VALIDATOR.is_valid(given_document):
        assert all(ONLY_LOADING_SAYS.search(str(finding)) for finding in checked.errors), checked.errors


def _changed(value, data):
    """``value`` with something else at one place in it."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        name = data.draw(st.sampled_from(sorted(value)))
        return {**value, name: _changed(value[name], data)}
    if isinstance(value, dict) and data.draw(st.booleans()):
        return {**value, data.draw(NAMES): data.draw(JUNK)}
    return data.draw(JUNK)


@pytest.mark.parametrize(
    "document",
    [
        {"tenant": "a"},
        {"tenant": "a", "project": "b", "profile": None},
        {"tenant": "a", "project": "b", "limits": {"proc": {}, "processor": {}}},
        {"tenant": "a", "project": "b", "limits": {"max_queue_size": "5"}},
        {"tenant": "a", "project": "b", "guarded_rest_patterns": {"ingress": {}}},
        {"tenant": "a", "project": "b", "backpressure": {"capacity_source_component": "rest"}},
        {"gateway": {"tenant": "a", "project": "b"}, "tenant": "a", "project": "b"},
        {"tenant": "a\n", "project": "b"},
        {
            "tenant": "a",
            "project": "b",
            "limits": {"max_integrations_concurrency": 5, "max_integrations_ops_concurrency": 5},
        },
        [],
        3,
        None,
    ],
)
def test_both_refuse(document):
    assert isinstance(check_gateway_document(document), Invalid)
    assert not VALIDATOR.is_valid(document)


def test_it_is_a_schema_with_descriptions_and_the_defaults_that_run():
    jsonschema_rs.meta.validate(SCHEMA)
    properties = SCHEMA["$defs"]["configuration"]["properties"]
    defaults = GatewayConfig(tenant="a", project="b").of("proc")
    seen = 0
    for name in SECTIONS:
        assert properties[name]["description"]
        for path, field in _fields(properties[name]["properties"]):
            value = defaults[name]
            for part in path:
                value = value[part]
            assert field["description"] and field["default"] == value, path
            assert field["x-applies"] in ("live", "restart")
            seen += 1
    assert seen > 40


def _fields(properties, path=()):
    for name, field in properties.items():
        if "properties" in field and name != "roles":
            yield from _fields(field["properties"], (*path, name))
        elif "default" in field and not field.get("deprecated"):
            yield (*path, name), field
