"""Writes the files of one commit into a folder, byte for byte as they are stored.

It reads the objects itself instead of having git check them out: no attributes, filters, line ends, submodules or
configuration of the repository take part, and every name and link is looked at before anything can follow it.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kdcube.config.git import GitSettings
from kdcube.proc.bundles.sources.git import Git
from kdcube.proc.bundles.sources.source import SourceError

_LFS = b"version https://git-lfs.github.com/spec/"
_LINK_MAX_BYTES = 4096
_SYNCS_AT_ONCE = 8
"""The disk takes several together."""
_PROGRAM, _LINK, _SUBMODULE = b"100755", b"120000", b"160000"


@dataclass(frozen=True, slots=True)
class _Item:
    mode: bytes
    object_id: bytes
    size: int
    name: bytes


def write_checkout(git: Git, commit: str, folder: Path, settings: GitSettings) -> None:
    """Fills the new ``folder`` and makes it read-only. When this returns all of it is on the disk: what is renamed into
    its place after that is whole, also after a loss of power. Raises SourceError for what is refused.
    """
    items = _items(git, commit, settings)
    folder.mkdir(mode=0o700)
    root = os.fsencode(folder)
    links: list[tuple[bytes, bytes]] = []
    made = {b""}
    with git.batch() as process:
        assert process.stdin is not None and process.stdout is not None
        guard = threading.Timer(settings.timeout_s, process.kill)
        guard.start()
        try:
            for item in items:
                _make_folders(root, os.path.dirname(item.name), made)  # noqa: PTH120 - names are bytes
                process.stdin.write(item.object_id + b"\n")
                process.stdin.flush()
                head = process.stdout.readline().split()
                if len(head) != 3 or head[1] != b"blob" or int(head[2]) != item.size:
                    raise SourceError(f"the mirror cannot give {_shown(item.name)}")
                content = process.stdout.read(item.size)
                if len(content) != item.size or process.stdout.read(1) != b"\n":
                    raise SourceError(f"the mirror cannot give {_shown(item.name)}")
                if item.mode == _LINK:
                    links.append((item.name, content))
                else:
                    _write(root, item, content)
            process.stdin.close()
        finally:
            guard.cancel()
            process.kill()
    _link(root, links)
    _sync_files(root, [item.name for item in items if item.mode != _LINK])
    for made_folder in sorted(made, reverse=True):
        place = os.path.join(root, made_folder)  # noqa: PTH118
        os.chmod(place, 0o555)  # noqa: PTH101, S103 - names are bytes
        sync_folder(place)


def _items(git: Git, commit: str, settings: GitSettings) -> list[_Item]:
    items: list[_Item] = []
    total = 0
    with closing(git.pieces("ls-tree", "-r", "-l", "-z", "--full-tree", commit)) as pieces:
        for piece in pieces:
            items.append(item := _checked(piece))
            total += item.size
            if len(items) > settings.max_files:
                raise SourceError(f"the commit has more than {settings.max_files} files")
            if total > settings.max_bytes:
                raise SourceError(
                    f"the commit's files are larger than {settings.max_bytes} bytes (KDCUBE_GIT_MAX_BYTES)"
                )
    return items


def _checked(piece: bytes) -> _Item:
    """A line of ``git ls-tree -l``."""
    facts, _, name = piece.partition(b"\t")
    mode, _, object_id, size = facts.split()
    if mode == _SUBMODULE:
        raise SourceError(f"{_shown(name)} is a git submodule, which is not fetched: put its files into the repository")
    parts = name.split(b"/")
    if not name or {b"", b".", b".."}.intersection(parts) or any(part.lower() == b".git" for part in parts):
        raise SourceError(f"{_shown(name)} is no name for a file of a bundle")
    if mode == _LINK and int(size) > _LINK_MAX_BYTES:
        raise SourceError(f"{_shown(name)} is no link")
    return _Item(mode, object_id, int(size), name)


def _make_folders(root: bytes, name: bytes, made: set[bytes]) -> None:
    if name in made:
        return
    _make_folders(root, os.path.dirname(name), made)  # noqa: PTH120
    try:
        os.mkdir(os.path.join(root, name), 0o700)  # noqa: PTH102, PTH118
    except FileExistsError:
        raise SourceError(f"{_shown(name)} is in the commit twice") from None
    made.add(name)


def _write(root: bytes, item: _Item, content: bytes) -> None:
    if content.startswith(_LFS) and item.size < 1024:
        raise SourceError(f"{_shown(item.name)} is in Git LFS, which is not fetched: put the file into the repository")
    mode = 0o555 if item.mode == _PROGRAM else 0o444
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(root, item.name), flags, mode)  # noqa: PTH118
    except FileExistsError:
        raise SourceError(f"{_shown(item.name)} is in the commit twice") from None
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, mode)


def _sync_files(root: bytes, names: list[bytes]) -> None:
    def sync(name: bytes) -> None:
        _sync(os.path.join(root, name), os.O_RDONLY)  # noqa: PTH118

    with ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="fsync") as threads:
        for _ in threads.map(sync, names):
            pass


def sync_folder(folder: Path | bytes) -> None:
    """The names in it are on the disk."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(place: Path | bytes, flags: int) -> None:
    fd = os.open(place, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _link(root: bytes, links: list[tuple[bytes, bytes]]) -> None:
    """Makes the links when all else is there, and then looks where each leads: through others, too."""
    for name, target in links:
        if target.startswith(b"/") or not target or b"\0" in target:
            raise SourceError(f"the link {_shown(name)} leads out of the repository")
        try:
            os.symlink(target, os.path.join(root, name))  # noqa: PTH118, PTH211
        except OSError:
            raise SourceError(f"{_shown(name)} is in the commit twice") from None
    real = os.path.realpath(root)
    for name, _ in links:
        led = os.path.realpath(os.path.join(root, name))  # noqa: PTH118
        if led != real and not led.startswith(real + b"/"):
            raise SourceError(f"the link {_shown(name)} leads out of the repository")


def remove_checkout(folder: Path) -> None:
    """Deletes a read-only folder, following no links."""
    for place, folders, files in os.walk(folder):
        Path(place).chmod(0o700)
        for name in folders:
            if (inner := Path(place, name)).is_symlink():
                inner.unlink()
        for name in files:
            Path(place, name).unlink(missing_ok=True)
    for place, _, _ in os.walk(folder, topdown=False):
        Path(place).rmdir()


def _shown(name: bytes) -> str:
    return repr(os.fsdecode(name)[:200])
