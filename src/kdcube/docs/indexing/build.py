"""``python -m kdcube.docs.indexing.build``: brings the index of a folder up to date. Settings as JSON on stdin.

A process of its own: files are other people's, and whatever reading one of them does, it does not do to a bundle host.
Prints one line of JSON, a ``Built``, and on standard error a line for each file that is left out. Exit code 0; 1 with
a line on standard error when the folder or the cache cannot be used; a signal means that a file has ended it. Started
again it leaves out a file that has ended it twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import msgspec

from kdcube.docs.indexing.place import MAX_DEATHS, Built, Place, Progress, place_of, signature_of
from kdcube.docs.indexing.scan import FileState, Scan, scan
from kdcube.docs.indexing.writing import IndexWriter, draft
from kdcube.docs.reading.document import Unreadable
from kdcube.docs.reading.files import read_document
from kdcube.docs.reading.passages import passages
from kdcube.docs.searching.index import open_index
from kdcube.docs.settings import Limits, Settings


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it, and ends it
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    place = place_of(settings)
    try:
        place.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        resource.setrlimit(resource.RLIMIT_AS, (settings.limits.memory_bytes, settings.limits.memory_bytes))
        with locked(place):
            built = build(settings, place)
    except OSError as error:
        print(f"docs: {error.filename or settings.folder}: {error.strerror}", file=sys.stderr, flush=True)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(built) + b"\n")
    return 0


@contextmanager
def locked(place: Place) -> Generator[None]:
    """One builder at a time; the kernel lets go when it ends, however it does."""
    lock = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def build(settings: Settings, place: Place) -> Built:
    """Reads what has changed. To be called under the lock."""
    began = time.monotonic()
    before = place.read_progress()
    found = scan(settings)
    for line in found.left_out:
        _log(line)
    changed = _Changes(place, found)
    if place.index.exists() and not changed:
        place.progress.unlink(missing_ok=True)
        return Built(files=len(found.files), left_out=len(found.left_out), seconds=time.monotonic() - began)
    with draft(place, signature_of(settings)) as writer, place.progress.open("wb", buffering=0) as progress:
        reading = _Reading(settings, progress, writer, before)
        for path in changed.gone:
            writer.remove(path)
        for number, path in enumerate(changed.new):
            reading.take(number, len(changed.new), path, found.files[path])
        if not changed.known:
            writer.pack()
    place.progress.unlink(missing_ok=True)
    return Built(
        files=len(found.files),
        read=len(changed.new),
        passages=reading.passages,
        removed=len(changed.gone),
        left_out=len(found.left_out) + reading.left_out,
        seconds=time.monotonic() - began,
    )


class _Changes:
    """Between what an index knows and what is there."""

    def __init__(self, place: Place, found: Scan) -> None:
        self.known: dict[str, FileState] = {}
        if place.index.exists():
            try:
                with open_index(place.index) as index:
                    self.known = index.files()
            except sqlite3.Error as error:
                print(f"docs: the index is broken and is made anew: {error}", file=sys.stderr, flush=True)
                place.index.unlink()
        self.gone = [path for path in self.known if path not in found.files]
        self.new = [path for path, state in found.files.items() if self.known.get(path) != state]

    def __bool__(self) -> bool:
        return bool(self.gone or self.new)


class _Reading:
    """Takes the files, one after the other."""

    def __init__(self, settings: Settings, progress: FileIO, writer: IndexWriter, before: Progress | None) -> None:
        self._root = Path(os.path.realpath(settings.folder))
        self._limits: Limits = settings.limits
        self._writer = writer
        self._before = before
        self._progress = progress
        self.passages = 0
        self.left_out = 0

    def take(self, number: int, total: int, path: str, state: FileState) -> None:
        """Reads one file, or says why not. Before it does it leaves its name, for whoever follows."""
        deaths = self._before.deaths + 1 if self._before is not None and self._before.path == path else 0
        self._tell(Progress(number, total, path, deaths))
        try:
            data = (self._root / path).read_bytes()
        except OSError as error:
            data, reason = b"", error.strerror or "it cannot be read"
        else:
            reason = "reading it ended the process, or took too long" if deaths >= MAX_DEATHS else ""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if not reason and self._writer.digest(path) == digest:
            self._writer.touch(path, state)
            return
        self._writer.remove(path)
        if not reason:
            try:
                document = read_document(data, path, max_chars=self._limits.file_chars)
                found = list(passages(document))
                self.passages += self._writer.add(path, state, digest, document.title, found)
                return
            except Unreadable as error:
                reason = str(error)
            except (ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
                reason = f"it cannot be read ({type(error).__name__})"  # by a library that it was too much for
        self.left_out += 1
        self._writer.leave_out(path, state, digest, reason)
        _log(f"{path}: {reason}")

    def _tell(self, progress: Progress) -> None:
        data = msgspec.json.encode(progress)
        os.pwrite(self._progress.fileno(), data, 0)
        self._progress.truncate(len(data))


def _log(line: str) -> None:
    print(f"docs: left out {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
