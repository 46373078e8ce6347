"""``kdcube bundles check``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from kdcube.cli.settings import check_settings
from kdcube.local.bundle_check import Found, Handler, Loaded, Problem
from kdcube.local.bundles import check_bundle
from kdcube.proc.bundles.environments.environments import open_environments
from kdcube.protocol.errors import InvalidInput


def check(path: Path, /, *, module: str | None = None, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Load a bundle as proc would, in its environment and within its limits; tell what it is, or what is wrong where.

    Parameters
    ----------
    path
        The folder of the bundle.
    module
        As in the registry entry: a dotted name in the folder, with :NAME where the object is not called bundle.
    json
        Print it as JSON.
    """
    if not path.exists():
        raise InvalidInput("path", f"{path} does not exist: give the folder that holds bundle.py")
    settings = check_settings()
    with open_environments(settings.home / "environments", settings.environments, quiet=True) as environments:
        found = asyncio.run(check_bundle(path, environments, module=module, output=sys.stderr.fileno()))
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    else:
        print(_told(found, path.absolute()))
    if found.problems:
        raise SystemExit(1)


def _told(found: Found, path: Path) -> str:
    lines = [_problem(problem) for problem in found.problems]
    if found.bundle is not None:
        lines.append(_bundle(found.bundle, path, fine=not lines))
    return "\n".join(lines)


def _problem(problem: Problem) -> str:
    where = f"{problem.file}:{problem.line}: " if problem.file else ""
    return f"{where}{problem.what}" + (f"\n    {problem.remedy}" if problem.remedy else "")


def _bundle(bundle: Loaded, path: Path, *, fine: bool) -> str:
    rows = [("messages", _handler(bundle.message_handler, path) if bundle.message_handler else "it takes none")]
    rows += [("operation", f"{name}: {_handler(handler, path)}") for name, handler in bundle.operations.items()]
    if bundle.max_attempts > 1:
        rows.append(("attempts", f"at most {bundle.max_attempts} of a turn"))
    verdict = "is fine" if fine else "loads, but see above"
    return "\n".join([f"{bundle.id} {verdict}", *(f"  {name:<10} {what}" for name, what in rows)])


def _handler(handler: Handler, path: Path) -> str:
    if handler.file is None:
        return handler.name
    file = Path(handler.file)
    shown = file.relative_to(path) if file != path and file.is_relative_to(path) else file
    return f"{handler.name} ({shown}, line {handler.line})"
