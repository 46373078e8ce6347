"""What pydantic finds wrong with a document, told to an operator: the path, what was given, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kdcube.config.documents import Finding, Path, dotted, measured, named, shown

FINDINGS_MAX = 50

Written: TypeAlias = Callable[[Path], Path]
"""Gives the path of a value as its author wrote it."""


def findings_of(
    error: ValidationError,
    model: type[BaseModel],
    *,
    written: Written = tuple,
    given: Callable[[Path], bool] = lambda _: True,
    elsewhere: Mapping[str, str] | None = None,
    values: bool | Callable[[Path], bool] = True,
    without: str | None = None,
) -> list[Finding]:
    """One for each thing that is wrong, at most 50 and a last one that counts the others.

    ``given``: whether the value at a path is the author's own and no default. ``elsewhere``: hints for names that are
    known, but not where they stand. ``values``: whether texts that were given may be shown, or at which paths anything
    that was given may.
    ``without``: a type of error that is left out.
    """
    fields = _Fields(_schema(model))
    found: dict[tuple[str, str], Finding] = {}
    details = [detail for detail in error.errors(include_url=False) if detail["type"] != without]
    for detail in details[: 4 * FINDINGS_MAX]:
        finding = _finding(detail, fields, written, given, elsewhere or {}, values)
        found.setdefault((finding.path, finding.message), finding)
    told = list(found.values())[:FINDINGS_MAX]
    left = len(found) - len(told) + max(0, len(details) - 4 * FINDINGS_MAX)
    return [*told, Finding("", f"and {left} more")] if left else told


@cache
def _schema(model: type[BaseModel]) -> Mapping[str, Any]:
    return model.model_json_schema(ref_template="{model}")


def _finding(
    detail: ErrorDetails,
    fields: _Fields,
    written: Written,
    given: Callable[[Path], bool],
    elsewhere: Mapping[str, str],
    values: bool | Callable[[Path], bool],
) -> Finding:
    path, context = detail["loc"], detail.get("ctx", {})
    where = dotted(written(path))
    match detail["type"]:
        case "extra_forbidden":
            return _unknown(where, str(path[-1]), fields.names(path[:-1]), elsewhere)
        case "missing":
            allowed = fields.allowed(path)
            return Finding(where, f"is missing; give {allowed}" if allowed else "is missing", allowed)
        case "contradiction":
            return _contradictory(path, context, written, given)
        case "value_error":
            return Finding(where, str(context["error"]))
        case "pattern" | "patterns" | "capacity_source" | "scope":
            return Finding(where, detail["msg"], fields.allowed(path))
        case "union_tag_invalid" | "union_tag_not_found":
            return _untold(path, context, written, fields)
        case _:
            allowed = fields.allowed(path) or _allowed_by(detail)
            value = detail["input"]
            if callable(values):
                is_now = shown(value) if values(path) else f"{words_of(value)} that is not shown"
            else:
                is_now = measured(value) if isinstance(value, str) and not values else shown(value)
            return Finding(where, f"is {is_now}; give {allowed}", allowed)


def words_of(value: Any) -> str:
    """What kind of value it is, and nothing of the value."""
    match value:
        case str():
            return measured(value)
        case bool() | None:
            return "a word"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"


def _untold(path: Path, context: Mapping[str, Any], written: Written, fields: _Fields) -> Finding:
    """An object whose kind decides what else is in it, with another kind or none."""
    name = str(context["discriminator"]).strip("'")
    where, allowed = dotted(written((*path, name))), "one of " + ", ".join(fields.kinds(path))
    told = f"is {shown(context['tag'])}" if "tag" in context else "is missing"
    return Finding(where, f"{told}; give {allowed}", allowed)


def _contradictory(path: Path, context: Mapping[str, Any], written: Written, given: Callable[[Path], bool]) -> Finding:
    """Told at the field that was given, or else could be: the other one may be a default."""
    (low, low_is), (high, high_is) = context["low"], context["high"]
    if given((*path, high)) or not given((*path, low)):
        told, other = f"is {high_is:g}, below {low}, which is {low_is:g}", low
        where = (*path, high)
    else:
        told, other = f"is {low_is:g}, above {high}, which is {high_is:g}", high
        where = (*path, low)
    by = "" if given((*path, other)) else " by default"
    return Finding(dotted(written(where)), told + by + context["why"])


def _allowed_by(detail: ErrorDetails) -> str:
    """For what the schema does not tell, such as a member of a union: pydantic's own words."""
    return "what " + detail["msg"].removeprefix("Input ").replace("should be", "is", 1)


def _unknown(where: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> Finding:
    close = difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.6)
    if name in elsewhere:
        return Finding(where, f"unknown field here; {elsewhere[name]}")
    if close:
        return Finding(where, f"unknown field; did you mean {close[0]}?", closest=close[0])
    return Finding(where, f"unknown field; remove it, or give one of {', '.join(sorted(known))}")


class _Fields:
    """What may stand where, by the JSON Schema of a model."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    def names(self, path: Path) -> list[str]:
        return [named(name) for name in self._at(path).get("properties", {})]

    def kinds(self, path: Path) -> list[str]:
        """Of an object whose kind decides what else is in it."""
        return [str(kind) for kind in _mapping(self._at(path))]

    def allowed(self, path: Path) -> str | None:
        node = self._at(path)
        if "anyOf" in node:
            return words({**node, "anyOf": [self._resolved(option) for option in node["anyOf"]]})
        return words(node)

    def _at(self, path: Path) -> Mapping[str, Any]:
        node = self._resolved(self._schema)
        for part in path:
            for option in self._options(node):
                if (below := self._below(option, part)) is not None:
                    node = self._resolved(below)
                    break
            else:
                return {}
        return node

    def _options(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [node, *(self._resolved(option) for option in node.get("anyOf", ()))]

    def _below(self, node: Mapping[str, Any], part: str | int) -> Mapping[str, Any] | None:
        members: Mapping[str, Any] = node.get("properties", {})
        if part in members:
            return members[cast("str", part)]
        if part in (kinds := _mapping(node)):
            return {"$ref": kinds[part]}
        if isinstance(part, int) and "items" in node:
            return node["items"]
        more = node.get("additionalProperties")
        return cast("Mapping[str, Any]", more) if isinstance(more, dict) else None

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            node = self._schema["$defs"][node["$ref"]]
        return node


def _mapping(node: Mapping[str, Any]) -> Mapping[str | int, str]:
    return node.get("discriminator", {}).get("mapping", {})


def words(node: Mapping[str, Any]) -> str | None:
    """A node of a JSON Schema in words: ``a whole number from 1 to 256``."""
    if "anyOf" in node:
        options = [words(option) for option in node["anyOf"]]
        return " or ".join(option for option in options if option) or None
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    match node.get("type"):
        case "integer":
            return "a whole number" + _range(node)
        case "number":
            return "a number" + _range(node)
        case "string":
            return f"a text such as {node['examples'][0]}" if "examples" in node else "a text"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "array":
            return "a list"
        case "object":
            return "an object"
        case _:
            return None


def _range(node: Mapping[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    parts = [
        f" from {low:.10g}" if low is not None else f" above {above:.10g}" if above is not None else "",
        f" to {high:.10g}" if high is not None else f" and below {below:.10g}" if below is not None else "",
    ]
    if low is None and above is not None and high is not None:
        parts[1] = f" and at most {high:.10g}"
    return "".join(parts)
