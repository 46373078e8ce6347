"""The version of a bundle that comes from a folder: a hash of what its files say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

VERSION_DIGITS = 12
_OF_ONE = ("bundle.py", "__init__.py", "pyproject.toml", "uv.lock", "pylock.toml", "requirements.txt")
"""A folder with one of these is one bundle."""
_SKIPPED = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules"})


def content_version(path: str, module: str | None) -> str:
    """The first 12 digits of a SHA-256 over names and bytes of the bundle's files, in a fixed order.

    Caches, version control and virtual environments do not count. Where one folder holds several bundles, each a
    package named by ``module``, only that package counts. Raises OSError when files cannot be read.
    """
    root = own_folder(Path(path), module)
    digest = hashlib.sha256()
    for file in bundle_files(root):
        name = file.relative_to(root).as_posix().encode() if file != root else file.name.encode()
        content = hashlib.sha256(file.read_bytes()).digest()
        digest.update(len(name).to_bytes(4, "big") + name + content)
    return digest.hexdigest()[:VERSION_DIGITS]


def own_folder(root: Path, module: str | None) -> Path:
    """What counts of a bundle's ``path``."""
    package = root / (module or "").partition(":")[0].partition(".")[0]
    several = not any((root / entry).exists() for entry in _OF_ONE)
    return package if module and several and package.is_dir() else root


def bundle_files(root: Path) -> Iterator[Path]:
    """The files that count, in a fixed order. Raises OSError."""
    if not root.is_dir():
        yield root
        return
    for entry in sorted(root.iterdir(), key=lambda path: path.name):
        if entry.name in _SKIPPED or entry.suffix == ".pyc":
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from bundle_files(entry)
        elif entry.is_file():
            yield entry
