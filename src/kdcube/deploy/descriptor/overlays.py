"""Environments: what one changes of the rest.

Objects are merged key by key, at any depth. Everything else, lists too, takes the place of what is there; null takes it
away. A text that stands for an object (``tls: given``) counts as that object. Where the overlay gives another kind of
an object whose fields depend on it, the whole object is replaced.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from kdcube.config.documents import Finding, Path, named

SHORT: Mapping[tuple[str, ...], str] = {
    ("edge",): "kind",
    ("tls",): "kind",
    ("data", "valkey"): "kind",
    ("data", "postgres"): "kind",
    ("bundles", "source"): "kind",
    ("auth",): "provider",
}
"""Where a text may stand for an object, and for which field of it."""

_DEPENDS = {path: name for path, name in SHORT.items() if path != ("edge",)}
"""Objects whose other fields depend on that one."""

BY_ITSELF = ("version", "environments")
"""What no environment changes."""


def unfolded(document: Mapping[str, Any]) -> dict[str, Any]:
    """With the objects that texts stand for. What is no object stays as it is."""
    found = dict(document)
    for path, name in SHORT.items():
        at = found
        for part in path[:-1]:
            if not isinstance(at.get(part), dict):
                break
            below = dict(cast("dict[str, Any]", at[part]))
            at[part] = below
            at = below
        else:
            if isinstance(at.get(path[-1]), str):
                at[path[-1]] = {name: at[path[-1]]}
    return found


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Both unfolded."""
    return _merged(base, overlay, ())


def _merged(base: Mapping[str, Any], overlay: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found = dict(base)
    for name, value in overlay.items():
        here, below = (*path, name), found.get(name)
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            changed = cast("dict[str, Any]", value)
            kept = cast("dict[str, Any]", below) if isinstance(below, dict) else {}
            found[name] = _merged({} if _replaces(kept, changed, here) else kept, changed, here)
        else:
            found[name] = value
    return found


def _replaces(base: Mapping[str, Any], overlay: Mapping[str, Any], path: Path) -> bool:
    name = next((name for known, name in _DEPENDS.items() if known == path), None)
    return name is not None and name in overlay and overlay[name] != base.get(name)


def overlay_of(document: Mapping[str, Any], environment: str) -> dict[str, Any] | Finding:
    """What ``environment`` changes, unfolded."""
    environments = document.get("environments", {})
    if not isinstance(environments, dict):
        return Finding("environments", "must be an object of environments by name")
    known = cast("dict[str, Any]", environments)
    if environment not in known:
        if not known:
            return Finding("environments", "has no environments; leave --environment out, or add one")
        close = difflib.get_close_matches(environment[:64], known, n=1)
        told = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(map(named, known))}"
        return Finding("environments", f"has no {named(environment)}{told}")
    overlay = known[environment]
    where = f"environments.{named(environment)}"
    if not isinstance(overlay, dict):
        return Finding(where, "must be an object of what it changes")
    for name in BY_ITSELF:
        if name in overlay:
            return Finding(f"{where}.{name}", "cannot be changed by an environment; remove it")
    return unfolded(cast("dict[str, Any]", overlay))
