"""Which component reads which field: the same field given for the other one has no effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcube.config.documents import Finding, Path, dotted, shown
from kdcube.config.resolution import PATTERN_LISTS, SECTIONS, Origin, Source

_INGRESS, _PROC, _BOTH, _NOBODY = ("ingress",), ("proc",), ("ingress", "proc"), ()

_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "service_capacity": _PROC,
    "backpressure": _INGRESS,
    "rate_limits": _BOTH,
    "pools": _BOTH,
    "limits": _INGRESS,
    "redis": _BOTH,
    **dict.fromkeys(PATTERN_LISTS, _BOTH),
}
_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("service_capacity", "processes_per_instance"): _NOBODY,
    ("service_capacity", "avg_processing_time_seconds"): _NOBODY,
    ("pools", "pg_max_connections"): _NOBODY,
    ("pools", "redis_max_connections"): _NOBODY,
    ("limits", "max_body_bytes"): _BOTH,
    ("limits", "max_queue_size"): _PROC,
    ("limits", "max_running_turns_per_user"): _PROC,
    ("limits", "max_live_turns_per_user"): _PROC,
    ("limits", "max_queue_wait_seconds"): _PROC,
    ("limits", "retention_days"): _PROC,
    ("limits", "max_integrations_ops_concurrency"): _PROC,
    ("limits", "max_public_operations_per_minute"): _PROC,
}


def readers(section: str, field: str) -> tuple[str, ...]:
    """The components whose value of a field counts. Empty: it is checked and shown, but nothing is done by it yet."""
    return _FIELDS.get((section, field), _SECTIONS[section])


def read_sections() -> set[tuple[str, str]]:
    """The pairs of a section and a component that code reads."""
    pairs = {(section, component) for section in PATTERN_LISTS for component in _SECTIONS[section]}
    for section, model in SECTIONS.items():
        pairs |= {(section, component) for field in model.model_fields for component in readers(section, field)}
    return pairs


def without_effect(document: Mapping[str, Any], origins: Mapping[Path, Origin]) -> Iterator[Finding]:
    """Warnings of what was given for one component, where the other one's value counts and is another."""
    for path, origin in origins.items():
        if origin.source is not Source.GIVEN or len(path) < 2:
            continue
        section, component = str(path[0]), path[1]
        counting = readers(section, str(path[2]) if len(path) > 2 else "")
        if not counting or component in counting:
            continue
        other: Path = (section, counting[0], *path[2:])
        is_own = origins[other].path != origin.path
        if is_own and (counts := _at(document, other)) != _at(document, path):
            told = f"has no effect: only {counting[0]} reads it, and there it is {shown(counts)}"
            yield Finding(dotted(origin.path), told)


def _at(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document
