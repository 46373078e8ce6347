"""Which of a bundle's files decide about its environment, and what of them is refused before anything is run.

The most exact one decides: ``uv.lock`` (with the ``pyproject.toml`` it was made from), ``pylock.toml``, a
``requirements.txt`` with hashes, the ``[project]`` of a ``pyproject.toml``, a ``requirements.txt`` without hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from kdcube.proc.bundles.content import own_folder
from kdcube.proc.bundles.environments.failure import EnvironmentNotBuilt

_MAX_BYTES = 16 << 20
_OPTIONS = ("--hash", "--require-hashes", "--only-binary", "--no-binary")
_ELSEWHERE = re.compile(
    r"(^|[\s@])(git|hg|svn|bzr)\+|(^|@\s*)(file:|[./~]|http:)|^(?!https:)[A-Za-z]+://", re.IGNORECASE
)
_PUBLISH = "bundles get their packages from indexes: publish it there, or put its code beside bundle.py"


_INDEXES = ("index", "index-url", "extra-index-url", "find-links", "no-index")
_NO_INDEX = "lock it (uv lock), or have the index given to the installation (UV_DEFAULT_INDEX, UV_INDEX)"


class Kind(StrEnum):
    """By what is decided, the most exact first."""

    UV_LOCK = "uv.lock"
    PYLOCK = "pylock.toml"
    HASHED = "requirements.txt with hashes"
    PROJECT = "pyproject.toml"
    REQUIREMENTS = "requirements.txt"

    @property
    def resolved(self) -> bool:
        """Whether it names every package with its version."""
        return self in (Kind.UV_LOCK, Kind.PYLOCK, Kind.HASHED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an environment is built from."""

    kind: Kind
    file: Path
    """The one that decides, for messages."""
    texts: Mapping[str, bytes]
    """By the names of the files."""
    digest: str
    """Of what they say about the environment."""


def wanted_environment(path: str, module: str | None) -> Wanted | None:
    """None: the bundle has no such file. Raises EnvironmentNotBuilt, OSError."""
    folder = own_folder(Path(path), module)
    if not folder.is_dir():
        return None
    project, project_text = folder / "pyproject.toml", _text(folder / "pyproject.toml")
    said = None if project_text is None else _project(project, project_text)
    for kind in (Kind.UV_LOCK, Kind.PYLOCK):
        text = _text(file := folder / kind.value)
        if text is None:
            continue
        if kind is Kind.PYLOCK:
            return _wanted(kind, file, {file.name: text}, None)
        if said is None or project_text is None:
            raise EnvironmentNotBuilt("the pyproject.toml that it was made from is not beside it", file)
        return _wanted(kind, file, {file.name: text, project.name: project_text}, said)
    requirements = folder / "requirements.txt"
    text = _text(requirements)
    if text is not None and b"--hash" in text:
        _check_requirements(requirements, text)
        return _wanted(Kind.HASHED, requirements, {requirements.name: text}, None)
    if said is not None and project_text is not None:
        _check_project(project, project_text, said)
        return Wanted(Kind.PROJECT, project, {project.name: project_text}, _digest(Kind.PROJECT, json.dumps(said)))
    if text is not None:
        _check_requirements(requirements, text)
        return _wanted(Kind.REQUIREMENTS, requirements, {requirements.name: text}, None)
    return None


def _wanted(kind: Kind, file: Path, texts: Mapping[str, bytes], said: Any) -> Wanted:
    return Wanted(kind, file, texts, _digest(kind, texts[file.name], json.dumps(said)))


def _digest(kind: Kind, *parts: bytes | str) -> str:
    digest = hashlib.sha256(kind.value.encode())
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _text(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(text) > _MAX_BYTES:
        raise EnvironmentNotBuilt(f"it is larger than {_MAX_BYTES} bytes", file)
    return text


def parsed(file: Path, text: bytes) -> dict[str, Any]:
    """A document in TOML. Raises EnvironmentNotBuilt."""
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        found = re.search(r"at line (\d+)", str(error))
        raise EnvironmentNotBuilt(f"it is no TOML: {error}", file, int(found[1]) if found else None) from None


def _project(file: Path, text: bytes) -> dict[str, Any] | None:
    """What a ``pyproject.toml`` says about the environment, and no more: its version, say, changes nothing."""
    document = parsed(file, text)
    project = document.get("project")
    if not isinstance(project, dict):
        return None
    project = cast("dict[str, Any]", project)
    tool = document.get("tool")
    settings = cast("dict[str, Any]", tool).get("uv") if isinstance(tool, dict) else None
    names = ("name", "requires-python", "dependencies", "optional-dependencies", "dynamic")
    said = {**{name: project.get(name) for name in names}, "uv": settings}
    if isinstance(requires := said["requires-python"], str):
        check_python(requires, file, _line_of(text, "requires-python"))
    return said


def check_python(requires: str, file: Path, line: int | None = None) -> None:
    """Raises EnvironmentNotBuilt unless proc's Python is among those of ``requires`` (``>=3.11,<4``): uv only warns."""
    here = sys.version_info[:3]
    for part in filter(None, map(str.strip, requires.split(","))):
        found = re.fullmatch(r"(>=|<=|==|!=|~=|>|<)\s*(\d+(?:\.\d+){0,2})(\.\*)?\S*", part)
        if found is None:
            continue
        wanted = tuple(map(int, found[2].split(".")))
        same = here[: len(wanted)] if found[3] else here
        padded = wanted if same is not here else wanted + (0,) * (3 - len(wanted))
        fits = {
            ">=": same >= padded, "<=": same <= padded, ">": same > padded, "<": same < padded, "==": same == padded,
            "!=": same != padded, "~=": here >= wanted and here[: len(wanted) - 1] == wanted[:-1],
        }[found[1]]  # fmt: skip
        if not fits:
            version = ".".join(map(str, here))
            raise EnvironmentNotBuilt(f"it needs Python {requires}, and proc's is {version}", file, line)


def _check_project(file: Path, text: bytes, said: Mapping[str, Any]) -> None:
    dynamic = said["dynamic"]
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        what = "its dependencies are dynamic, which only a build would tell: list them under [project]"
        raise EnvironmentNotBuilt(what, file, _line_of(text, "dynamic"))
    dependencies = cast("list[object]", said["dependencies"]) if isinstance(said["dependencies"], list) else []
    for dependency in dependencies:
        if isinstance(dependency, str) and _ELSEWHERE.search(dependency.strip()):
            raise EnvironmentNotBuilt(f"{dependency!r}: {_PUBLISH}", file, _line_of(text, dependency))
    settings = said["uv"]
    sources = cast("dict[str, Any]", settings).get("sources") if isinstance(settings, dict) else None
    for name, source in (cast("dict[str, Any]", sources) if isinstance(sources, dict) else {}).items():
        each = cast("list[Any]", source) if isinstance(source, list) else [source]
        line = _line_of(text, name, after="[tool.uv.sources]")
        if any(isinstance(one, dict) and "index" in one for one in each):
            raise EnvironmentNotBuilt(f"{name} has an index of its own: {_NO_INDEX}", file, line)
        if any(not isinstance(one, dict) or "url" not in one for one in each):
            raise EnvironmentNotBuilt(f"{name} has a source that is no index: {_PUBLISH}", file, line)
    named = [name for name in _INDEXES if isinstance(settings, dict) and name in settings]
    if named:
        raise EnvironmentNotBuilt(f"[tool.uv] has {named[0]}: {_NO_INDEX}", file, _line_of(text, named[0]))


def logical_lines(text: bytes) -> Iterator[tuple[int, str]]:
    """The requirements of a file with their line numbers, continued lines joined; no comments."""
    number, whole = 1, ""
    for at, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        number = number if whole else at
        whole += re.sub(r"(^|\s+)#.*", "", line)
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        if whole.strip():
            yield number, whole.strip()
        whole = ""
    if whole.strip():
        yield number, whole.strip()


def _check_requirements(file: Path, text: bytes) -> None:
    for number, line in logical_lines(text):
        option = line.partition("=")[0].split()[0]
        if option.startswith("-") and option not in _OPTIONS:
            what = f"{option} is not for bundles: indexes are set for the installation (UV_DEFAULT_INDEX, UV_INDEX)"
            raise EnvironmentNotBuilt(what, file, number)
        if _ELSEWHERE.search(line):
            raise EnvironmentNotBuilt(f"{line.partition(' --hash')[0]!r}: {_PUBLISH}", file, number)


def _line_of(text: bytes, words: str, after: str = "") -> int | None:
    lines = text.decode(errors="replace").splitlines()
    start = next((number for number, line in enumerate(lines) if line.strip() == after), 0) if after else 0
    return next((number for number, line in enumerate(lines[start:], start=start + 1) if words in line), None)
