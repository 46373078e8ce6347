"""``python -m kdcube.local.bundle_check PATH [MODULE]``: loads a bundle as a host does, and prints what it is, or
what is wrong.

What the bundle's code prints while it loads goes to standard error.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from kdcube.proc.bundles.content import bundle_files
from kdcube.proc.bundles.environments.mark import decided_by
from kdcube.sdk import Bundle
from kdcube.sdk.loading import LoadError, line_of, load_bundle, load_operations


class Handler(msgspec.Struct, frozen=True):
    """A function of the bundle. ``line`` counts from 1, as in ``Problem``."""

    name: str
    file: str | None = None
    line: int | None = None


class Loaded(msgspec.Struct, frozen=True):
    """What a host gets when it loads the bundle. ``operations`` are by the name under which they are called."""

    id: str
    max_attempts: int
    message_handler: Handler | None
    operations: dict[str, Handler]


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, where, and what to do about it (None: ``what`` says it)."""

    what: str
    file: str | None = None
    line: int | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        return self.what if self.file is None else f"{self.what} ({self.file}, line {self.line})"


class Found(msgspec.Struct, frozen=True):
    """``bundle`` is None when it does not load; the first of ``problems`` says why."""

    bundle: Loaded | None
    problems: list[Problem]


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):
        found = inspect_bundle(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    sys.stdout.buffer.write(msgspec.json.encode(found))


def inspect_bundle(path: Path, module: str | None) -> Found:
    """Runs the bundle's code, so it belongs into a process of its own."""
    broken = list(_unreadable(path))
    try:
        bundle = load_bundle(str(path), module)
        load_operations(bundle)
    except LoadError as error:
        remedy = error.remedy or _remedy(error.__cause__)
        reason = Problem(error.reason, error.file and str(error.file), error.line, remedy)
        others = [problem for problem in broken if (problem.file, problem.line) != (reason.file, reason.line)]
        return Found(None, [reason, *others])
    if "@" not in bundle.id:
        file, line = _place(path, module)
        named = Problem(f"the id {bundle.id!r} has no version", file, line, f'write Bundle("{bundle.id}@1.0.0")')
        broken.append(named)
    return Found(_described(bundle), broken)


def _place(path: Path, module: str | None) -> tuple[str | None, int | None]:
    """Where the bundle says its id."""
    name, _, attribute = (module or "").partition(":")
    stem = path.joinpath(*name.split("."))
    named = (stem.with_suffix(".py"), stem / "__init__.py")
    for file in named if name else (path, path / "bundle.py", path / "__init__.py"):
        if file.is_file():
            return str(file.resolve()), line_of(attribute or "bundle", file)
    return None, None


def _described(bundle: Bundle) -> Loaded:
    operations = {name: _handler(operation.handler) for name, operation in bundle.operations.items()}
    answer = bundle.message_handler
    return Loaded(bundle.id, bundle.max_attempts, None if answer is None else _handler(answer), operations)


def _handler(handler: Any) -> Handler:
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    code = getattr(inspect.unwrap(handler), "__code__", None)
    return Handler(name) if code is None else Handler(name, code.co_filename, code.co_firstlineno)


def _unreadable(path: Path) -> Iterator[Problem]:
    """Files that Python cannot read, also those that are imported only later, in the middle of a turn."""
    for file in bundle_files(path) if path.exists() else ():
        if file.suffix != ".py":
            continue
        try:
            compile(file.read_bytes(), str(file.resolve()), "exec", dont_inherit=True)
        except SyntaxError as error:
            yield Problem(f"{type(error).__name__}: {error.msg}", str(file.resolve()), error.lineno, _remedy(error))
        except ValueError as error:  # such as null bytes
            yield Problem(f"{type(error).__name__}: {error}", str(file.resolve()), 1, "save it as UTF-8 text")


def _remedy(error: BaseException | None) -> str | None:
    match error:
        case SyntaxError():
            return "correct it: Python cannot read the file"
        case ModuleNotFoundError(name=name):
            return f"put {name}.py beside bundle.py, or {_to_install()}"
        case KeyError() if _raised_in(error, os.__file__):
            return "a bundle sees no environment: grant it by name under `secrets`, and read it with turn.secret(...)"
        case _:
            return None


def _to_install() -> str:
    match decided_by():
        case None:
            return f"install the package that has it into {sys.prefix}"
        case "uv.lock":
            return "add the package that has it: uv add PACKAGE"
        case file:
            return f"add the package that has it to {file}"


def _raised_in(error: BaseException, file: str) -> bool:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename in (file, "<frozen os>")


if __name__ == "__main__":
    main()
