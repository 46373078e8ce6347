"""Loads a bundle's code. Runs in the host only: proc never imports a bundle."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from kdcube.sdk.bundle import Bundle
from kdcube.sdk.older import REMEDY, find_older
from kdcube.sdk.operations import Operations, Undescribable


class LoadError(Exception):
    """The bundle cannot be loaded; the message is one line, with file and line number where there is one.

    ``reason`` is the same without them, and ``remedy`` what to do where that is known. Line numbers count from 1.
    """

    def __init__(
        self, reason: str, file: Path | None = None, line: int | None = None, remedy: str | None = None
    ) -> None:
        where = "" if file is None else f" ({file}, line {line})"
        super().__init__(f"{reason}{where}" + (f": {remedy}" if remedy else ""))
        self.reason = reason
        self.file = file
        self.line = line
        self.remedy = remedy


def load_bundle(path: str, module: str | None, registered_id: str | None = None) -> Bundle:
    """The object ``bundle`` of a bundle's module. Raises LoadError.

    ``path`` is a folder or one Python file. ``module`` is a dotted name within the folder, with ``:attribute`` when
    the object is not called ``bundle``; without it the folder's ``bundle.py`` is meant, or the folder as a package.
    ``registered_id`` is what the registry calls the bundle, which must be what its code calls it; None takes any.
    """
    source = Path(path).resolve()
    name, _, attribute = (module or "").partition(":")
    try:
        return _load(source, name, attribute or "bundle", registered_id)
    except LoadError as error:
        older = find_older(source, name)
        if older is None:
            raise
        raise LoadError(f"a bundle of the older system: {older.what}", older.file, older.line, REMEDY) from error


def _load(source: Path, name: str, attribute: str, registered_id: str | None) -> Bundle:
    try:
        loaded = _import(source, name)
    except LoadError:
        raise
    except (Exception, SystemExit) as error:  # an import may raise anything; all of it is reported
        raise _located(error, source) from error
    file = Path(getattr(loaded, "__file__", None) or source)
    found = getattr(loaded, attribute, None)
    if found is None:
        reason = f'{file.name} defines no `{attribute}`: write `{attribute} = Bundle("name@version")` in it'
        raise LoadError(reason, file, 1)
    line = line_of(attribute, file)
    if not isinstance(found, Bundle):
        raise LoadError(f"`{attribute}` is a {type(found).__name__}, it must be a kdcube.sdk.Bundle", file, line)
    if found.message_handler is None and not found.operations:
        raise LoadError(f"the bundle registers nothing: add a function under `@{attribute}.on_message`", file, line)
    if registered_id is not None and found.id != registered_id:
        reason = f"the code says Bundle({found.id!r}), the registry calls it {registered_id!r}; give both the same id"
        reason = f"{file.name}: {reason}"
        raise LoadError(reason, file, line)
    return found


def load_operations(bundle: Bundle) -> Operations:
    """What the bundle's operations take and give. Raises LoadError where that is no JSON."""
    try:
        return Operations(bundle.operations)
    except Undescribable as error:
        code = getattr(error.operation.function, "__code__", None)
        if code is None:
            raise LoadError(str(error)) from error
        raise LoadError(str(error), Path(code.co_filename), code.co_firstlineno) from error


def _import(source: Path, name: str) -> ModuleType:
    if source.is_file():
        sys.path.insert(0, str(source.parent))
        return _import_file(_free_name(source.stem), source, package=False)
    if not source.is_dir():
        raise LoadError(f"{source} does not exist")
    sys.path.insert(0, str(source))
    if name:
        return importlib.import_module(name)
    entry, package = source / "bundle.py", source / "__init__.py"
    if package.is_file():
        package_name = _free_name(source.name)
        loaded = _import_file(package_name, package, package=True)
        return importlib.import_module(f"{package_name}.bundle") if entry.is_file() else loaded
    if entry.is_file():
        return _import_file("bundle", entry, package=False)
    raise LoadError(f"{source} has neither bundle.py nor __init__.py: add one, or set `module` in the registry entry")


def _import_file(name: str, file: Path, *, package: bool) -> ModuleType:
    """Imports one file by its place, so that no other module of the same name can stand in for it."""
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(file.parent)] if package else None
    )
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _free_name(stem: str) -> str:
    """The file's own name, unless it is no identifier or would hide another module."""
    if stem.isidentifier() and stem not in sys.modules and importlib.util.find_spec(stem) is None:
        return stem
    return f"bundle_{''.join(character if character.isalnum() else '_' for character in stem)}"


def _located(error: BaseException, source: Path) -> LoadError:
    """``KeyError: 'x'``, and the innermost line of the bundle's own code that led to it."""
    reason = " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return LoadError(f"{type(error).__name__}: {error.msg}", Path(error.filename), error.lineno)
    folder = source if source.is_dir() else source.parent
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder) and "site-packages" not in frame.filename
    ]
    return LoadError(reason, Path(own[-1].filename), own[-1].lineno) if own else LoadError(reason)


def line_of(attribute: str, file: Path) -> int:
    """Where the module says what ``attribute`` is; 1 where that does not show."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return 1
    for node in body:
        match node:
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                names = [alias.asname or alias.name for alias in aliases]
            case _:
                continue
        if attribute in names:
            return node.lineno
    return 1
