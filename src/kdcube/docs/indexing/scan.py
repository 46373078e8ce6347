"""Which files of a folder are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdcube.docs.reading.suffixes import SUFFIXES
from kdcube.docs.settings import Settings

_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages", "venv"})


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells that a file has changed."""

    size: int
    mtime_ns: int


@dataclass(slots=True)
class Scan:
    """``files`` by their path in the folder, with ``/``; ``left_out`` says why others are not read."""

    files: dict[str, FileState] = field(default_factory=dict[str, FileState])
    left_out: list[str] = field(default_factory=list[str])


def scan(settings: Settings) -> Scan:
    """Looks at names, sizes and times only. What is hidden, or reached by a link that leaves the folder, is left out.

    Raises OSError when the folder itself cannot be read.
    """
    root = os.path.realpath(settings.folder).rstrip("/")
    os.scandir(root).close()  # what is wrong with the folder itself is no matter of one file
    found = Scan()
    folders = [(path, 0) for path in _starts(root, settings, found)]
    while folders:
        folder, depth = folders.pop()
        try:
            entries = sorted(os.scandir(f"{root}/{folder}"), key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise
            found.left_out.append(f"{folder}: {error.strerror}")
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False):
                _look(root, path, settings, found)
            elif entry.name in _SKIPPED_FOLDERS:
                continue
            elif depth + 1 >= settings.limits.depth:
                found.left_out.append(f"{_printable(path)}: it is deeper than {settings.limits.depth} folders")
            else:
                folders.append((path, depth + 1))
            if len(found.files) > settings.limits.files:
                found.files.popitem()
                found.left_out.append(f"there are more than {settings.limits.files} files: the others are left out")
                return found
    return found


def _starts(root: str, settings: Settings, found: Scan) -> Iterator[str]:
    """The folders where the search begins; files that are included by name are looked at."""
    for name in settings.include or ("",):
        path = Path(root, name)
        if path.is_dir():
            yield name.rstrip("/")
        elif path.exists():
            _look(root, name, settings, found)


def _look(root: str, path: str, settings: Settings, found: Scan) -> None:
    if Path(path).suffix.lower() not in SUFFIXES:
        return
    full = f"{root}/{path}"
    try:
        path.encode()
        target = os.path.realpath(full, strict=True)
        if target != full and not target.startswith(f"{root}/"):
            found.left_out.append(f"{path}: it is a link that leaves the folder")
            return
        state = Path(full).stat()
    except UnicodeEncodeError:
        found.left_out.append(f"{_printable(path)}: its name is not UTF-8")
        return
    except OSError as error:
        found.left_out.append(f"{path}: {error.strerror}")
        return
    if not stat.S_ISREG(state.st_mode):
        found.left_out.append(f"{path}: it is no regular file")
    elif state.st_size > settings.limits.file_bytes:
        found.left_out.append(f"{path}: it has {state.st_size} bytes, over the limit of {settings.limits.file_bytes}")
    else:
        found.files[path] = FileState(state.st_size, state.st_mtime_ns)


def _printable(path: str) -> str:
    return path.encode(errors="replace").decode()
