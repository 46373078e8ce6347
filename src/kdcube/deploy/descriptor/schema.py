"""A JSON Schema (2020-12) of kdcube.yaml for editors.

It takes whatever is loaded. What it cannot say is told by loading alone: what is no name of a host, no image or no
reference, fields that contradict each other, a key twice; and by ``checks`` what does not go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from kdcube.config.bundles import BundleEntry
from kdcube.config.schema import DIALECT, gateway_schema
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.overlays import BY_ITSELF, SHORT

Schema = dict[str, Any]

_GATEWAY = "gateway."
_OVERLAY = "overlay."
_SCOPE = ("tenant", "tenant_id", "project", "project_id")


def descriptor_schema() -> Schema:
    """Of the whole file, with its environments."""
    whole = Descriptor.model_json_schema()
    definitions: dict[str, Schema] = whole.pop("$defs")
    definitions["BundleRegistry"] = _registry(definitions)
    definitions |= _gateway()
    whole["properties"]["gateway"] = {
        "$ref": f"#/$defs/{_GATEWAY}configuration",
        "description": whole["properties"]["gateway"]["description"],
    }
    for path, name in SHORT.items():
        _shorten(whole, definitions, path, name)
    overlay = cast("Schema", _relaxed(whole))
    for name in BY_ITSELF:
        overlay["properties"].pop(name, None)
    overlays = {f"{_OVERLAY}{name}": cast("Schema", _relaxed(found)) for name, found in definitions.items()}
    properties: Schema = {
        "$schema": {"description": "Where this schema is, for editors.", "type": "string"},
        **whole["properties"],
        "environments": {
            "description": "By name, what each one changes: objects merge key by key, all else is replaced, null takes "
            "away. Chosen with --environment.",
            "type": "object",
            "additionalProperties": {"$ref": f"#/$defs/{_OVERLAY}environment"},
        },
    }
    return {
        "$schema": DIALECT,
        "title": "kdcube.yaml",
        **{key: value for key, value in whole.items() if key not in ("properties", "title")},
        "properties": properties,
        "$defs": {**definitions, **overlays, f"{_OVERLAY}environment": overlay},
    }


def sections() -> Iterator[tuple[tuple[str, ...], str | None, Schema]]:
    """Every object of fixed fields: its path, its kind where that decides about its fields, and its schema."""
    whole = Descriptor.model_json_schema()
    yield (), None, whole
    yield from _sections(whole, whole["$defs"], ())


def _sections(
    node: Schema, definitions: Mapping[str, Schema], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str | None, Schema]]:
    for name, field in node.get("properties", {}).items():
        if name == "gateway" and not path:
            continue
        for kind, below in _objects(field, definitions):
            if below.get("properties") and name != "registry" and name != "cors":
                yield (*path, name), kind, below
                yield from _sections(below, definitions, (*path, name))


def _objects(field: Schema, definitions: Mapping[str, Schema]) -> Iterator[tuple[str | None, Schema]]:
    if "discriminator" in field:
        for kind, target in field["discriminator"]["mapping"].items():
            yield kind, definitions[target.rpartition("/")[2]]
    elif "$ref" in field:
        yield None, definitions[field["$ref"].rpartition("/")[2]]


def _registry(definitions: Mapping[str, Schema]) -> Schema:
    """Entries have their id as their key, and other spellings of the fields of git."""
    entry = definitions["BundleEntry"]
    entry["required"] = [name for name in entry.get("required", ()) if name != "id"]
    for name, field in BundleEntry.model_fields.items():
        for spelling in getattr(field.validation_alias, "choices", ()):
            entry["properties"].setdefault(str(spelling), {**entry["properties"][name], "deprecated": True})
    return definitions["BundleRegistry"]


def _gateway() -> dict[str, Schema]:
    """Without tenant and project, which stand at the top."""
    definitions = cast("dict[str, Schema]", _renamed(gateway_schema()["$defs"], _GATEWAY))
    configuration = definitions["configuration"]
    for name in _SCOPE:
        configuration["properties"].pop(name, None)
    configuration.pop("allOf", None)
    return {f"{_GATEWAY}{name}": definition for name, definition in definitions.items() if name != "wrapped"}


def _shorten(whole: Schema, definitions: Mapping[str, Schema], path: tuple[str, ...], name: str) -> None:
    """The field may be a text: the value of ``name`` where nothing else is required."""
    at = whole
    for part in path[:-1]:
        at = definitions[at["properties"][part]["$ref"].rpartition("/")[2]]
    field: Schema = at["properties"][path[-1]]
    words: list[str] = []
    for kind, below in _objects(field, definitions):
        if kind is None:
            target = below["properties"][name]
            resolved = definitions[target["$ref"].rpartition("/")[2]] if "$ref" in target else target
            words += resolved["enum"]
        elif set(below.get("required", ())) <= {name}:
            words.append(kind)
    told = {key: field[key] for key in ("description", "default") if key in field}
    rest = {key: value for key, value in field.items() if key not in told}
    at["properties"][path[-1]] = {**told, "anyOf": [{"type": "string", "enum": words}, rest]}


def _relaxed(node: Any) -> Any:
    """As part of an environment: nothing is required, and null takes away."""
    if isinstance(node, list):
        return [_relaxed(item) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    found: Schema = {}
    for key, value in cast("Schema", node).items():
        if key in ("required", "discriminator", "default", "allOf", "not"):
            continue
        if key == "$ref":
            found[key] = cast("str", value).replace("#/$defs/", f"#/$defs/{_OVERLAY}")
        elif key == "oneOf":
            found["anyOf"] = _relaxed(value)
        elif key == "additionalProperties" and isinstance(value, dict):
            found[key] = {"anyOf": [_relaxed(value), {"type": "null"}]}
        elif key in ("properties", "patternProperties"):
            found[key] = {
                name: {"anyOf": [_relaxed(field), {"type": "null"}]} for name, field in cast("Schema", value).items()
            }
        else:
            found[key] = _relaxed(value)
    return found


def _renamed(node: Any, prefix: str) -> Any:
    if isinstance(node, list):
        return [_renamed(item, prefix) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    return {
        key: cast("str", value).replace("#/$defs/", f"#/$defs/{prefix}") if key == "$ref" else _renamed(value, prefix)
        for key, value in cast("Schema", node).items()
    }
