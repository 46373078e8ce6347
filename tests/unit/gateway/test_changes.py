"""What differs between two configurations, and merge patches of their documents."""

from __future__ import annotations

from typing import Any

import pytest

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.changes import Change, changes_between, patched, restarts_between

SCOPE: dict[str, Any] = {"tenant": "t", "project": "p"}


def config(**sections: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({**SCOPE, **sections})


def test_every_field_that_differs_is_told_by_its_path() -> None:
    after = config(limits={"max_queue_size": 7}, rate_limits={"ingress": {"paid": {"burst": 3}}})
    assert changes_between(config(), after) == [
        Change("limits.ingress.max_queue_size", 2000, 7),
        Change("limits.proc.max_queue_size", 2000, 7),
        Change("rate_limits.ingress.paid.burst", 600, 3),
    ]


def test_the_same_has_no_changes() -> None:
    assert changes_between(config(limits={}), config()) == []


def test_pools_of_a_component_need_its_restart() -> None:
    before = config()
    after = config(pools={"proc": {"pg_pool_max_size": 3}}, limits={"max_queue_size": 7})
    assert restarts_between(before, after, "proc") == ["pools.proc.pg_pool_max_size"]
    assert restarts_between(before, after, "ingress") == []


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({}, {"limits": {"max_queue_size": 7}}, {"limits": {"max_queue_size": 7}}),
        ({"limits": {"max_queue_size": 7}}, {"limits": {"max_queue_size": None}}, {"limits": {}}),
        ({"limits": {"max_queue_size": 7}}, {"limits": None}, {}),
        (  # what is said of both holds for both
            {"limits": {"proc": {"max_queue_size": 7, "max_page_items": 5}}},
            {"limits": {"max_queue_size": 9}},
            {"limits": {"proc": {"max_page_items": 5}, "max_queue_size": 9}},
        ),
        (
            {"limits": {"max_queue_size": 7}},
            {"limits": {"proc": {"max_queue_size": 9}}},
            {"limits": {"max_queue_size": 7, "proc": {"max_queue_size": 9}}},
        ),
        (  # null removes it wherever it is said
            {"limits": {"max_queue_size": 7, "proc": {"max_queue_size": 9}}},
            {"limits": {"max_queue_size": None}},
            {"limits": {"proc": {}}},
        ),
        (
            {"rate_limits": {"ingress": {"paid": {"burst": 1, "hourly": 2}}}},
            {"rate_limits": {"paid": {"burst": 5}}},
            {"rate_limits": {"ingress": {"paid": {"hourly": 2}}, "paid": {"burst": 5}}},
        ),
        ({"guarded_rest_patterns": ["a", "b"]}, {"guarded_rest_patterns": ["c"]}, {"guarded_rest_patterns": ["c"]}),
        ({}, {"limits": {"proc": {"max_queue_size": None}}}, {"limits": {"proc": {}}}),
    ],
)
def test_merge_patches(document: Any, patch: Any, result: Any) -> None:
    given = {**SCOPE, **document}
    assert patched(given, patch) == {**SCOPE, **result}
    assert given == {**SCOPE, **document}


def test_other_spellings_of_components_are_the_same() -> None:
    given = {"gateway": {**SCOPE, "limits": {"chat-proc": {"max_queue_size": 7}}}}
    assert patched(given, {"limits": {"processor": {"max_queue_size": 9}}}) == {
        **SCOPE,
        "limits": {"proc": {"max_queue_size": 9}},
    }
    assert patched(given, {"limits": {"max_queue_size": 9}}) == {**SCOPE, "limits": {"proc": {}, "max_queue_size": 9}}
