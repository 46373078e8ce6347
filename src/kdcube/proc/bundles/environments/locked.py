"""What a lock says: packages with their versions and hashes, and whether a bundle may have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt
from kdcube.proc.bundles.environments.wanted import check_python, logical_lines, parsed

_PACKAGE = re.compile(rb"(?m)^(?=\[\[packages\]\])")
OURS = "kdcube"
"""Never installed: a bundle may name it among its dependencies, for its own tests, and gets the one that serves it."""


def without_ours(text: bytes) -> bytes:
    """A ``pylock.toml`` without this package."""
    blocks = _PACKAGE.split(text)
    return b"".join(
        block for block in blocks if not re.match(rb'\[\[packages\]\]\s+name\s*=\s*"' + OURS.encode() + rb'"', block)
    )


def requirements_without_ours(text: bytes) -> bytes:
    """The same for ``requirements.txt``."""
    lines = [line for _, line in logical_lines(text)]
    return "".join(f"{line}\n" for line in lines if _name(line) != OURS).encode()


def _name(line: str) -> str:
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def check_lock(lock: bytes, lock_file: Path, project: bytes) -> None:
    """Raises EnvironmentNotBuilt when a ``uv.lock`` lacks what its project asks for by now. Versions are not looked at:
    the lock decides about them.
    """
    asked = parsed(lock_file.with_name("pyproject.toml"), project).get("project", {}).get("dependencies", [])
    known = {_name(str(package.get("name"))) for package in parsed(lock_file, lock).get("package", [])}
    for requirement in asked:
        if isinstance(requirement, str) and _name(requirement) not in known | {OURS}:
            what = f"it is older than pyproject.toml and lacks {_name(requirement)}: uv lock writes it again"
            raise EnvironmentNotBuilt(what, lock_file)


def check_packages(text: bytes, file: Path) -> list[dict[str, Any]]:
    """The packages of a ``pylock.toml``, ours left out. Raises EnvironmentNotBuilt for one that has no hashes."""
    document = parsed(file, text)
    if isinstance(requires := document.get("requires-python"), str):
        check_python(requires, file)
    packages = document.get("packages", [])
    found = [cast("dict[str, Any]", package) for package in packages if isinstance(package, dict)]
    for package in found:
        name = package.get("name")
        if any(key in package for key in ("vcs", "directory")) or "path" in package.get("archive", {}):
            what = (
                f"{name} comes from a folder or from version control: publish it on an index, or put its code beside "
            )
            raise EnvironmentNotBuilt(f"{what}bundle.py", file)
        files = [*package.get("wheels", []), package.get("sdist"), package.get("archive")]
        if not all(one.get("hashes") for one in files if one is not None):
            raise EnvironmentNotBuilt(f"{name} has no hashes", file)
    return found


def as_requirements(packages: list[dict[str, Any]], file: Path) -> bytes:
    """The same as ``requirements.txt``, by hashes alone: the addresses in a lock are left out."""
    lines: list[str] = []
    for package in packages:
        name, version = package.get("name"), package.get("version")
        if version is None or "archive" in package:
            raise EnvironmentNotBuilt(
                f"{name} comes from an address, and this installation takes all from indexes", file
            )
        files = [*package.get("wheels", []), package.get("sdist")]
        hashes = sorted({f"{kind}:{value}" for one in files if one for kind, value in one["hashes"].items()})
        marker = f" ; {package['marker']}" if "marker" in package else ""
        lines.append(" ".join([f"{name}=={version}{marker}", *(f"--hash={value}" for value in hashes)]))
    return "".join(f"{line}\n" for line in lines).encode()
