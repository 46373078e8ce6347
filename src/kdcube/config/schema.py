"""A JSON Schema (2020-12) of GATEWAY_CONFIG_JSON for editors.

It takes exactly the shapes that are loaded. What it cannot say is told by loading alone: fields that contradict each
other, a pattern that is none, a key twice, bounds of the whole document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import cleandoc
from itertools import combinations
from typing import Any

from pydantic import BaseModel

from kdcube.config.gateway import GatewayConfig
from kdcube.config.patterns import PATTERN_MAX_CHARS, PATTERNS_MAX
from kdcube.config.profiles import Profile
from kdcube.config.resolution import IGNORED, OTHER_SPELLINGS, PATTERN_LISTS, ROLES, SCOPE, SECTIONS, WRAPPER
from kdcube.config.sections import COMPONENTS, Section
from kdcube.protocol.ids import SCOPE_PATTERN

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def gateway_schema() -> Schema:
    """The defaults in it are those of the profile ``development``."""
    return {
        "$schema": DIALECT,
        "title": "GATEWAY_CONFIG_JSON",
        "description": "Who may send how much, and how much the system takes on.",
        "if": {"type": "object", "required": [WRAPPER]},
        "then": {"$ref": "#/$defs/wrapped"},
        "else": {"$ref": "#/$defs/configuration"},
        "$defs": {
            "wrapped": _object({**_own_schema(), WRAPPER: {"$ref": "#/$defs/configuration"}}),
            "configuration": _configuration(),
            "one_spelling": _not_together(spellings for spellings in COMPONENTS.values()),
            **{f"{name}.member": _member(name, section) for name, section in SECTIONS.items()},
        },
    }


def _configuration() -> Schema:
    properties: Schema = {
        **_own_schema(),
        **{spelling: _scope(name) for name in SCOPE for spelling in (name, f"{name}_id")},
        "profile": {
            "description": _described(GatewayConfig, "profile"),
            "enum": [profile.value for profile in Profile],
            "default": Profile.DEVELOPMENT.value,
        },
        **{name: _section(name, section) for name, section in SECTIONS.items()},
        **{name: _pattern_lists(name) for name in PATTERN_LISTS},
        **{str(path[0]): _ignored(why) for path, why in IGNORED.items() if len(path) == 1},
    }
    either = [{"anyOf": [{"required": [name]}, {"required": [f"{name}_id"]}]} for name in SCOPE]
    return {**_object(properties), "allOf": either}


def _section(name: str, section: type[Section]) -> Schema:
    member = {"$ref": f"#/$defs/{name}.member"}
    members = {
        spelling: member if spelling == component else {**member, "deprecated": True}
        for component, spellings in COMPONENTS.items()
        for spelling in spellings
    }
    flat = _member(name, section)
    flat["properties"].update(members)
    flat["description"] = cleandoc(section.__doc__ or "")
    return {**flat, "allOf": [{"$ref": "#/$defs/one_spelling"}]}


def _member(name: str, section: type[Section]) -> Schema:
    """A section for one component."""
    own = _fields(section)
    fields: Schema = {
        **own,
        **{
            str(other[1]): _other_spelling(proper, own) for other, proper in OTHER_SPELLINGS.items() if other[0] == name
        },
        **{str(path[1]): _ignored(why) for path, why in IGNORED.items() if path[0] == name and len(path) == 2},
    }
    if name == "rate_limits":
        fields[ROLES] = _object(_fields(section), "The classes of users may stand in here as well.")
    twice = _not_together((str(other[1]), proper) for other, proper in OTHER_SPELLINGS.items() if other[0] == name)
    return {**_object(fields, "What holds for this component alone; it wins over what stands beside it."), **twice}


def _fields(section: type[Section], values: Section | None = None) -> Schema:
    """Every field by name; ``values`` are its defaults where the section has none of its own."""
    properties: Schema = section.model_json_schema()["properties"]
    fields: Schema = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            fields[name] = _object(_fields(type(field.default), field.default), _described(section, name))
        else:
            fields[name] = {key: value for key, value in properties[name].items() if key != "title"}
            fields[name].setdefault("x-applies", "live")
            if values is not None:
                fields[name]["default"] = getattr(values, name)
    return fields


def _pattern_lists(name: str) -> Schema:
    text = {"type": "string", "minLength": 1, "maxLength": PATTERN_MAX_CHARS}
    items: Schema = {"type": "array", "items": text, "maxItems": PATTERNS_MAX, "default": []}
    members = {spelling: items for spellings in COMPONENTS.values() for spelling in spellings}
    each = {**_object(members), "allOf": [{"$ref": "#/$defs/one_spelling"}]}
    return {"description": _described(GatewayConfig, name), "x-applies": "live", "anyOf": [items, each]}


def _scope(name: str) -> Schema:
    told = {"description": _described(GatewayConfig, name), "x-applies": "restart"}
    return {**told, "type": "string", "pattern": f"^{SCOPE_PATTERN}$"}


def _own_schema() -> Schema:
    return {"$schema": {"description": "Where this schema is, for editors."}}


def _other_spelling(proper: str, fields: Schema) -> Schema:
    return {**fields[proper], "description": f"Another spelling of {proper}.", "deprecated": True}


def _ignored(why: str) -> Schema:
    return {"description": f"Means nothing here and is left out: {why}.", "deprecated": True}


def _object(properties: Mapping[str, Any], description: str | None = None) -> Schema:
    told = {"description": description} if description else {}
    return {**told, "type": "object", "properties": dict(properties), "additionalProperties": False}


def _not_together(groups: Iterable[Iterable[str]]) -> Schema:
    pairs = [{"required": list(pair)} for group in groups for pair in combinations(group, 2)]
    return {"not": {"anyOf": pairs}} if pairs else {}


def _described(model: type[BaseModel], field: str) -> str:
    return model.model_fields[field].description or ""
