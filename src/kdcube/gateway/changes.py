"""What differs between two configurations, and what of that a running process cannot take over. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from kdcube.config.documents import Finding
from kdcube.config.gateway import GatewayConfig
from kdcube.config.resolution import SECTIONS, WRAPPER
from kdcube.config.sections import COMPONENTS, Restart

_SPELLINGS = {spelling: component for component, spellings in COMPONENTS.items() for spelling in spellings}


@dataclass(frozen=True, slots=True)
class Change:
    """One field by its path in the resolved configuration, such as ``limits.proc.max_queue_size``."""

    path: str
    before: Any
    after: Any


def changes_between(before: GatewayConfig, after: GatewayConfig) -> list[Change]:
    """Every field that differs, by path."""
    old, new = (dict(_leaves(config.document())) for config in (before, after))
    return [
        Change(path, old.get(path), new.get(path)) for path in sorted({*old, *new}) if old.get(path) != new.get(path)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, member in cast("Mapping[str, Any]", value).items():
            yield from _leaves(member, f"{path}.{name}" if path else name)
    else:
        yield path, value


def component_at_restart(path: str) -> str | None:
    """The component that takes the field over only when it starts; None when it does so while it runs."""
    name, _, rest = path.partition(".")
    component, _, field = rest.partition(".")
    section = SECTIONS.get(name)
    if section is None or field not in section.model_fields:
        return None
    return component if any(isinstance(mark, Restart) for mark in section.model_fields[field].metadata) else None


def restarts_between(before: GatewayConfig, after: GatewayConfig, component: str) -> list[str]:
    """Paths of the fields that a process of ``component`` which runs ``before`` takes over at its next start."""
    if before is after:
        return []
    return [change.path for change in changes_between(before, after) if component_at_restart(change.path) == component]


def rendered_elsewhere(changes: Sequence[Change]) -> list[Finding]:
    """What holds in services at once, and not in what was rendered from the configuration: a larger body ends there."""
    told = "a proxy in front takes no larger bodies until it is rendered again (kdcube up: with its next start)"
    return [
        Finding(change.path, told)
        for change in changes
        if change.path.endswith(".max_body_bytes") and change.after > change.before
    ]


def patched(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with the JSON merge patch ``patch`` (RFC 7396): null removes, so that the default holds.

    What the patch says of a section without naming a component holds for both: it takes the place of what the
    document says for one of them.
    """
    base, patch = _one_spelling(document), _one_spelling(patch)
    for name, change in patch.items():
        section = base.get(name)
        if isinstance(change, dict) and isinstance(section, dict):
            shared = {key: value for key, value in cast("dict[str, Any]", change).items() if key not in COMPONENTS}
            own = cast("dict[str, Any]", section)
            base[name] = {key: _without(value, shared) if key in COMPONENTS else value for key, value in own.items()}
    return merged(base, patch)


def _one_spelling(document: Mapping[str, Any]) -> dict[str, Any]:
    """Components by their proper names, and without the member in which a document may stand whole."""
    if set(document) - {"$schema"} == {WRAPPER} and isinstance(document[WRAPPER], dict):
        document = cast("dict[str, Any]", document[WRAPPER])
    return {
        name: {_SPELLINGS.get(key, key): member for key, member in cast("dict[str, Any]", value).items()}
        if isinstance(value, dict)
        else value
        for name, value in document.items()
    }


def merged(base: Any, patch: Any) -> Any:
    """``base`` with the JSON merge patch ``patch`` (RFC 7396): null removes."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(cast("Mapping[str, Any]", base)) if isinstance(base, Mapping) else {}
    for name, value in cast("Mapping[str, Any]", patch).items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _without(section: Any, patch: Mapping[str, Any]) -> object:
    """``section`` without what ``patch`` is about to say."""
    if not isinstance(section, Mapping):
        return section
    kept: dict[str, object] = {}
    for name, value in cast("Mapping[str, Any]", section).items():
        said = patch.get(name)
        if name not in patch:
            kept[name] = value
        elif isinstance(value, Mapping) and isinstance(said, Mapping):
            kept[name] = _without(value, cast("Mapping[str, Any]", said))
    return kept


def shown(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """As an answer or an audit entry holds them."""
    return [{"path": change.path, "before": change.before, "after": change.after} for change in changes]
