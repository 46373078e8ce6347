"""The schema for editors takes whatever is loaded, and refuses what has another shape."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcube.deploy.descriptor.reading import Invalid, Valid, read_document
from kdcube.deploy.descriptor.schema import descriptor_schema

GOLDEN = Path(__file__).parents[3] / "golden" / "descriptor"
DOCUMENTS = [yaml.safe_load(file.read_text()) for file in sorted(GOLDEN.glob("*.yaml"))]
SCHEMA = descriptor_schema()
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)
JUNK = st.sampled_from(
    [None, {}, [], 3, 2.5, True, "", "proxy", "none", "given", "container", {"x": 1}, {"kind": "given"}, ["x"]]
)
SCOPE = {"version": 1, "tenant": "acme", "project": "support"}


def test_it_is_a_schema():
    jsonschema_rs.meta.validate(SCHEMA)
    assert all(SCHEMA["properties"][name].get("description") for name in SCHEMA["properties"] if name != "version")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_descriptors_with_their_environments_are_taken(document):
    VALIDATOR.validate(document)
    VALIDATOR.validate({**document, "$schema": "kdcube.schema.json"})


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(DOCUMENTS), st.data())
def test_what_loads_is_taken(document, data):
    changed = copy.deepcopy(document)
    changed.pop("environments", None)
    changed = _changed(changed, data)
    if isinstance(read_document(changed), Valid):
        VALIDATOR.validate(changed)
        VALIDATOR.validate({**SCOPE, "environments": {"x": {k: v for k, v in changed.items() if k != "version"}}})


def _changed(value, data):
    """``value`` with something else at one place in it."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        name = data.draw(st.sampled_from(sorted(value)))
        return {**value, name: _changed(value[name], data)}
    return data.draw(JUNK)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"tenant": None},
        {"edges": {}},
        {"edge": "prxy"},
        {"edge": {"kind": "proxy", "port": 1}},
        {"edge": {"aws": {}}},
        {"edge": {"aws": {"region": "moon"}}},
        {"tls": "tls"},
        {"data": {"valkey": "given"}},
        {"data": {"postgres": {"kind": "given", "host": "x", "storage_gb": 20}}},
        {"services": {"proc": {"count": 0}}},
        {"services": {"web_proxy": {}}},
        {"services": {"proxylogin": None}},
        {"services": {"proc": {"env": {"A": 1}}}},
        {"gateway": {"limits": {"max_queue_size": "many"}}},
        {"gateway": {"tenant": "x"}},
        {"auth": "oidc"},
        {"auth": {"provider": "oidc", "issuer": "https://id.example.org"}},
        {"secrets": {"session": "hunter2"}},
        {"secrets": {"password": "file:x"}},
        {"bundles": {"registry": {"bundles": {"a": {"path": "x", "pth": "y"}}}}},
    ],
)
def test_both_refuse(change):
    document = {**SCOPE, **change}
    assert isinstance(read_document(document), Invalid)
    assert not VALIDATOR.is_valid(document)
