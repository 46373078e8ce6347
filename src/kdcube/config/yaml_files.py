"""YAML that an operator has written, as JSON: of one meaning, with the same bounds as JSON itself."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, ClassVar, cast

import yaml
from yaml.nodes import MappingNode

from kdcube.config.documents import Finding, UnreadableDocument, named

SUFFIXES = (".yaml", ".yml")


def json_of(text: str) -> str:
    """Raises UnreadableDocument: no YAML, several documents, a key twice, an alias, a value that JSON has not."""
    try:
        return json.dumps(yaml.load(text, _Plain))  # noqa: S506 (it makes plain data only)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise UnreadableDocument(Finding("", f"is no YAML: {error.problem or 'it cannot be read'}{where}")) from None
    except yaml.YAMLError:
        raise UnreadableDocument(Finding("", "is no YAML: it has a character that is none")) from None
    except (TypeError, ValueError):  # a tag asked for it
        raise UnreadableDocument(Finding("", "has a value that JSON has not")) from None
    except RecursionError:
        raise UnreadableDocument(Finding("", "is nested too deeply")) from None


_DIGITS = "-0123456789"
_RESOLVED = (
    ("null", r"^(?:~|null|)$", "~n"),
    ("bool", r"^(?:true|false)$", "tf"),
    ("int", r"^-?(?:0|[1-9][0-9]*)$", _DIGITS),
    ("float", r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$", _DIGITS),
)
"""Words that are no texts: what they are, and how they begin."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """As PyYAML keeps them: by the first letter."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, pattern, beginnings in _RESOLVED:
        for first in (*beginnings, *([""] if kind == "null" else [])):
            found.setdefault(first, []).append((f"tag:yaml.org,2002:{kind}", re.compile(pattern)))
    return found


class _Plain(yaml.SafeLoader):
    """What JSON has: no dates, no `yes` that is true, no aliases (a few lines of them unfold into gigabytes)."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = _resolvers()  # pyright: ignore[reportIncompatibleVariableOverride]

    def compose_node(self, parent: Any, index: Any) -> Any:
        events = cast("Any", super())
        if events.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=events.peek_event().start_mark)
        return events.compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        plain = cast("Any", self)
        for key, _ in node.value:
            name: object = plain.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(problem="a key is no text", problem_mark=key.start_mark)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{named(name)} is given twice in the same object", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)
