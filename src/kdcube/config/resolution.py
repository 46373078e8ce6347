"""From the shapes in which GATEWAY_CONFIG_JSON may be written to one: every section, per component, every field.

A section is flat, which holds for every component, or has members ``ingress`` and ``proc``, which hold for one; both
together merge, and the member wins. Below them lie the profile, and below that the defaults of the fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from kdcube.config.documents import Finding, Path, dotted, shown
from kdcube.config.profiles import PROFILES, Profile
from kdcube.config.sections import (
    COMPONENTS,
    Backpressure,
    Limits,
    Pools,
    RateLimits,
    RedisSection,
    Section,
    ServiceCapacity,
)

SECTIONS: Mapping[str, type[Section]] = {
    "service_capacity": ServiceCapacity,
    "backpressure": Backpressure,
    "rate_limits": RateLimits,
    "pools": Pools,
    "limits": Limits,
    "redis": RedisSection,
}
PATTERN_LISTS = ("guarded_rest_patterns", "bypass_throttling_patterns")
SCOPE = ("tenant", "project")
WRAPPER = "gateway"
"""A document may stand whole in a member of this name, as in the older services' gateway file."""
ROLES = "roles"
"""``rate_limits`` may have its classes of users in a member of this name, as the older services store it."""

OTHER_SPELLINGS: Mapping[Path, str] = {("limits", "max_integrations_concurrency"): "max_integrations_ops_concurrency"}

IGNORED: Mapping[Path, str] = {
    ("instance_id",): "INSTANCE_ID names an instance",
    ("redis_url",): "REDIS_URL says where Valkey is",
    ("circuit_breakers",): "breakers open and close by what the stores do, without settings",
    ("monitoring",): "what is measured is not configured here",
    ("data_bus",): "there is no data bus",
    ("service_capacity", "concurrent_requests_per_instance"): "it follows from the other fields",
    ("service_capacity", "requests_per_hour"): "it follows from the other fields",
    ("redis", "rate_limit_key_ttl"): "keys last as long as their windows",
    ("redis", "session_ttl"): "sessions are not kept in Valkey",
    ("redis", "analytics_ttl"): "what is measured is not configured here",
    ("redis", "circuit_breaker_stats_ttl"): "breakers keep nothing in Valkey",
    ("redis", "heartbeat_ttl"): "HEARTBEAT_INTERVAL says how often proc gives a sign of life",
}
"""Fields of the older services that mean nothing here, and why. They are warned of and left out."""


_UNKNOWN = "unknown"
"""In place of a tenant or project that is missing, so that everything else can be checked."""


_MEMBERS = frozenset(spelling for spellings in COMPONENTS.values() for spelling in spellings)


class Source(StrEnum):
    """Where the value of a field comes from."""

    GIVEN = "given"
    PROFILE = "profile"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one field: its source, and the path under which it stands there."""

    source: Source
    path: Path


@dataclass(slots=True)
class Resolution:
    """One document in the one shape. ``document`` is still to be validated, where there are no errors."""

    document: dict[str, Any] = field(default_factory=dict[str, Any])
    origins: dict[Path, Origin] = field(default_factory=dict[Path, Origin])
    """By the path in ``document``."""
    errors: list[Finding] = field(default_factory=list[Finding])
    warnings: list[Finding] = field(default_factory=list[Finding])
    is_overlaid: bool = False
    """Whether some section is flat and has members: then one may replace the other."""

    def is_given(self, path: Path) -> bool:
        origin = self.origins.get(path)
        return origin is not None and origin.source is Source.GIVEN

    def written(self, path: Path) -> Path:
        """A path in ``document`` as the author wrote it: a flat section stays flat."""
        for length in range(len(path), 0, -1):
            if self.is_given(path[:length]):
                return (*self.origins[path[:length]].path, *path[length:])
        for known, origin in self.origins.items():  # an object whose members are known
            if origin.source is Source.GIVEN and known[: len(path)] == path:
                return origin.path[: len(origin.path) - (len(known) - len(path))]
        return path


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A value of a section, with its path inside of it and the whole path under which it was written."""

    path: Path
    written: Path
    value: Any


def resolve(given: Any) -> Resolution:
    """Raises nothing. What has no meaning as a shape is among ``errors``; values are not looked at."""
    found = Resolution()
    if not isinstance(given, dict):
        found.errors.append(Finding("", f"is {shown(given)}; give an object with tenant and project"))
        return found
    document, stem = _unwrapped(cast("dict[str, Any]", given))
    if not isinstance(document, dict):
        found.errors.append(Finding(WRAPPER, f"is {shown(document)}; give an object with tenant and project"))
        return found
    rest = dict(cast("dict[str, Any]", document))
    rest.pop("$schema", None)
    _take_scope(found, rest, stem)
    profile = _take_profile(found, rest, stem)
    for name in list(rest):
        if (name,) in IGNORED:
            _warn_ignored(found, (name,), (*stem, name))
            del rest[name]
    for section in SECTIONS:
        _take_section(found, section, rest.pop(section, {}), PROFILES[profile].get(section, {}), (*stem, section))
    for section in PATTERN_LISTS:
        _take_patterns(found, section, rest.pop(section, {}), (*stem, section))
    for name, value in rest.items():  # unknown: told when the document is validated
        found.document[name] = value
        found.origins[(name,)] = Origin(Source.GIVEN, (*stem, name))
    return found


def without_members(given: Any) -> Any:
    """``given`` with what is flat alone. Of a document in which some section has both."""
    document, stem = _unwrapped(given)
    flat = dict(cast("dict[str, Any]", document))
    for section in SECTIONS:
        fields = flat.get(section)
        if isinstance(fields, dict):
            kept = cast("dict[str, Any]", fields).items()
            flat[section] = {name: value for name, value in kept if name not in _MEMBERS}
    return {WRAPPER: flat} if stem else flat


def _unwrapped(given: dict[str, Any]) -> tuple[Any, Path]:
    if set(given) - {"$schema"} == {WRAPPER}:
        return given[WRAPPER], (WRAPPER,)
    return given, ()


def _take_scope(found: Resolution, rest: dict[str, Any], stem: Path) -> None:
    for name in SCOPE:
        other = f"{name}_id"
        spellings = [spelling for spelling in (name, other) if spelling in rest]
        values = [rest.pop(spelling) for spelling in spellings]
        found.document[name] = _UNKNOWN
        if not values:
            found.errors.append(
                Finding(dotted((*stem, name)), f"is missing; give the name of the {name} (or as {other})")
            )
        elif len(values) == 2 and values[0] != values[1]:
            found.errors.append(Finding(dotted((*stem, other)), f"{name} and {other} differ; give one of them"))
        else:
            found.document[name] = values[0]
            found.origins[(name,)] = Origin(Source.GIVEN, (*stem, spellings[0]))


def _take_profile(found: Resolution, rest: dict[str, Any], stem: Path) -> Profile:
    source = Source.GIVEN if "profile" in rest else Source.DEFAULT
    given = rest.pop("profile", Profile.DEVELOPMENT)
    found.document["profile"] = given
    found.origins[("profile",)] = Origin(source, (*stem, "profile"))
    return Profile(given) if given in list(Profile) else Profile.DEVELOPMENT  # which one is told by validation


def _take_section(found: Resolution, section: str, given: Any, profile: Mapping[str, Any], written: Path) -> None:
    if not isinstance(given, dict):
        found.document[section] = given
        found.origins[(section,)] = Origin(Source.GIVEN, written)
        return
    flat = dict(cast("dict[str, Any]", given))
    members = _take_members(found, flat, written)
    found.is_overlaid |= bool(flat and members)
    shared = list(_leaves(found, section, flat, written))
    below = SECTIONS[section]().model_dump()
    resolved: dict[str, Any] = {}
    for component in COMPONENTS:
        stem, (spelling, own) = (section, component), members.get(component, (component, {}))
        resolved[component] = {}
        for leaf in _plain_leaves(below):
            _lay(found, resolved, stem, leaf, Source.DEFAULT)
        for leaf in _plain_leaves(profile):
            _lay(found, resolved, stem, leaf, Source.PROFILE)
        for leaf in shared:
            _lay(found, resolved, stem, leaf, Source.GIVEN)
        if isinstance(own, dict):
            for leaf in _leaves(found, section, cast("dict[str, Any]", own), (*written, spelling)):
                _lay(found, resolved, stem, leaf, Source.GIVEN)
        else:
            resolved[component] = own
            found.origins[stem] = Origin(Source.GIVEN, (*written, spelling))
    found.document[section] = resolved


def _take_members(found: Resolution, flat: dict[str, Any], written: Path) -> dict[str, tuple[str, Any]]:
    """Takes the members out of a section. By component, where it has one: how it was spelled, and its value."""
    members: dict[str, tuple[str, Any]] = {}
    for component, spellings in COMPONENTS.items():
        used = [spelling for spelling in spellings if spelling in flat]
        values = [flat.pop(spelling) for spelling in used]
        if len(used) > 1:
            also = f"is the same component as {used[0]}; keep one of them"
            found.errors.append(Finding(dotted((*written, used[1])), also))
        if used:
            members[component] = (used[0], values[0])
    return members


def _leaves(found: Resolution, section: str, given: dict[str, Any], written: Path) -> Iterator[_Leaf]:
    """Every value in a flat section or a member, with the other spellings undone and the ignored fields left out."""
    fields = dict(given)
    roles = fields.get(ROLES)
    if section == "rate_limits" and isinstance(roles, dict):
        del fields[ROLES]
        yield from _plain_leaves(cast("dict[str, Any]", roles), (), (*written, ROLES))
    for name, value in fields.items():
        if (section, name) in IGNORED:
            _warn_ignored(found, (section, name), (*written, name))
            continue
        proper = OTHER_SPELLINGS.get((section, name), name)
        if proper != name and proper in fields:
            found.errors.append(Finding(dotted((*written, name)), f"is the same field as {proper}; keep one of them"))
            continue
        if isinstance(value, dict) and value:
            yield from _plain_leaves(cast("dict[str, Any]", value), (proper,), (*written, name))
        else:
            yield _Leaf((proper,), (*written, name), value)


def _plain_leaves(given: Mapping[str, Any], path: Path = (), written: Path = ()) -> Iterator[_Leaf]:
    for name, value in given.items():
        if isinstance(value, Mapping) and value:
            yield from _plain_leaves(cast("Mapping[str, Any]", value), (*path, name), (*written, name))
        else:
            yield _Leaf((*path, name), (*written, name), value)


def _lay(found: Resolution, document: dict[str, Any], stem: Path, leaf: _Leaf, source: Source) -> None:
    """Puts a value where it belongs, over what a lower layer had there."""
    at = cast("dict[str | int, Any]", document[str(stem[-1])])
    for name in leaf.path[:-1]:
        below = at.get(name)
        if not isinstance(below, dict):
            below = at[name] = dict[str | int, Any]()
            found.origins.pop((*stem, name), None)
        at = cast("dict[str | int, Any]", below)
    name, path = leaf.path[-1], (*stem, *leaf.path)
    if leaf.value == {} and isinstance(at.get(name), dict):
        return  # an object with nothing in it changes nothing
    at[name] = leaf.value
    found.origins[path] = Origin(source, leaf.written if source is Source.GIVEN else path)


def _take_patterns(found: Resolution, section: str, given: Any, written: Path) -> None:
    if isinstance(given, dict):
        lists = dict(cast("dict[str, Any]", given))
        members = _take_members(found, lists, written)
        found.document[section] = {**{component: list[Any]() for component in COMPONENTS}, **lists}
        for component in COMPONENTS:
            found.origins[section, component] = Origin(Source.DEFAULT, (*written, component))
        for component, (spelling, own) in members.items():
            found.document[section][component] = own
            found.origins[section, component] = Origin(Source.GIVEN, (*written, spelling))
    else:
        found.document[section] = dict.fromkeys(COMPONENTS, given)
        for component in COMPONENTS:
            found.origins[section, component] = Origin(Source.GIVEN, written)


def _warn_ignored(found: Resolution, field: Path, written: Path) -> None:
    path = dotted(written)
    if all(warning.path != path for warning in found.warnings):
        found.warnings.append(Finding(path, f"means nothing here and is left out: {IGNORED[field]}"))
