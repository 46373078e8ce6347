"""Recognises a bundle of the older system by its source: a class or factory under a decorator, which nothing here runs.

Nothing is imported: such code needs a package that is not there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "kdcube_ai_app"
_DECORATORS = frozenset({"agentic_workflow", "agentic_workflow_factory", "agentic_initializer", "bundle_entrypoint"})
_BASE = "BaseEntrypoint"
_MAX_BYTES = 1 << 20

REMEDY = (
    'write bundle.py with bundle = Bundle("name@version") of kdcube.sdk and a function under @bundle.on_message that '
    "calls the same agent (docs/bundles.md, “Bundles of the older system”)"
)


@dataclass(frozen=True, slots=True)
class Older:
    """Where it shows, counted from 1, and by what."""

    file: Path
    line: int
    what: str
    """``class Support under @agentic_workflow``."""


def find_older(folder: Path, module: str) -> Older | None:
    """What shows it in the files that would be loaded from ``folder``; ``module`` is as in the registry entry."""
    for file in _candidates(folder, module):
        try:
            if file.stat().st_size > _MAX_BYTES:
                continue
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        if found := _shows(tree, file):
            return found
    return None


def _candidates(folder: Path, module: str) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    if module:
        place = folder.joinpath(*module.split("."))
        yield place.parent / f"{place.name}.py"
        yield place / "__init__.py"
        return
    if (folder / "bundle.py").is_file():
        yield folder / "bundle.py"
        return
    yield folder / "__init__.py"
    yield folder / "entrypoint.py"


def _shows(tree: ast.Module, file: Path) -> Older | None:
    """The decorated class before the import that it needs: that is what has to be written anew."""
    imported: Older | None = None
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                for decorator in node.decorator_list:
                    if (name := _name(decorator)) in _DECORATORS:
                        return Older(file, node.lineno, f"{kind} {node.name} under @{name}")
                for base in node.bases if isinstance(node, ast.ClassDef) else ():
                    if (name := _name(base)).startswith(_BASE):
                        return Older(file, node.lineno, f"class {node.name} of {name}")
            case ast.ImportFrom(module=str(name)) if name.partition(".")[0] == PACKAGE:
                imported = imported or Older(file, node.lineno, f"it imports {PACKAGE}")
            case ast.Import(names=names) if any(alias.name.partition(".")[0] == PACKAGE for alias in names):
                imported = imported or Older(file, node.lineno, f"it imports {PACKAGE}")
            case _:
                pass
    return imported


def _name(node: ast.expr) -> str:
    match node:
        case ast.Call(func=function):
            return _name(function)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""
